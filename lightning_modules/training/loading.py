"""Trained networks from the checkpoints of runs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from architectures.density.base import DensityModel
from architectures.model import Model
from architectures.supervised.network import Network
from lightning_modules.config.compose import validate_stored
from lightning_modules.config.registries import DATA, TASKS
from lightning_modules.config.static_registry import describe_data
from lightning_modules.config.validate import Config
from lightning_modules.data.density.base import DensityData
from lightning_modules.metrics import task_of
from lightning_modules.storage.run_files import CHECKPOINT
from lightning_modules.tasks.base import TaskModule
from lightning_modules.training.checkpointing import load_plain
from schemes.errors import SchemenetError


def trained_network(place: Path) -> Model:
    """The trained network of a run folder or checkpoint, on the CPU."""
    return module_of(read_checkpoint(checkpoint_in(place))).network


def checkpoint_in(place: Path) -> Path:
    """The newest checkpoint of a run folder, or the file itself."""
    path = place / CHECKPOINT if place.is_dir() else place
    if path.is_file():
        return path
    if not place.exists():
        raise SchemenetError(f"no run folder or checkpoint {str(place)!r}")
    runs = sorted(str(found.parent) for found in itertools.islice(place.rglob(CHECKPOINT), 100))
    hint = f"; folders below it that do: {', '.join(runs[:3])}{' ...' if len(runs) > 3 else ''}" if runs else ""
    raise SchemenetError(f"{str(place)!r} is no finished run: it holds no {CHECKPOINT}{hint}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this package; only plain data and tensors are ever unpickled."""
    checkpoint = load_plain(path)
    parameters = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(parameters, dict) or not parameters.get("config"):
        raise SchemenetError(
            f"{str(path)!r} is no checkpoint that `schemenet train` wrote: it holds no config of a run"
        )
    return {**checkpoint, "hyper_parameters": {**parameters, "config": validate_stored(parameters["config"], path)}}


def module_of(checkpoint: dict[str, Any]) -> TaskModule:
    """The module of a checkpoint, with its weights."""
    try:
        parameters = checkpoint["hyper_parameters"]
        module = TASKS[task_of(parameters["config"]["data"]["name"])](**parameters)
    except SchemenetError:
        raise
    except Exception as error:  # what somebody wrote there fails in any way there is
        raise SchemenetError(f"the checkpoint describes no network: {type(error).__name__}: {error}") from error
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except Exception as error:
        raise SchemenetError(f"the checkpoint's weights do not fit its own network: {error}") from error
    return module


def describe_run(config: Config) -> str:
    """The network and the data of a run: ``ffjord on plane moons``."""
    return f"{config['architecture']['name']} on {describe_data(config['data'])}"


def data_of(checkpoint: dict[str, Any]) -> Any:
    """The data set of a checkpoint's run, loaded: its test set, whatever the run held out. Nothing is downloaded."""
    data = DATA.build({**checkpoint["hyper_parameters"]["config"]["data"], "validation": None}, seed=0)
    data.check()
    data.setup()
    return data


class TrainedDensity(NamedTuple):
    """A trained network in evaluation mode, in double precision on the CPU, its data, set up, and what both are."""

    network: DensityModel
    data: DensityData
    description: str


def trained_density(place: Path) -> TrainedDensity:
    """What a run folder or a checkpoint holds. Raises SchemenetError where that is no density."""
    checkpoint = read_checkpoint(checkpoint_in(place))
    network = module_of(checkpoint).network
    config = checkpoint["hyper_parameters"]["config"]
    if not isinstance(network, DensityModel):
        raise SchemenetError(
            f"{str(place)!r} was trained on data={config['data']['name']}; expected a density, trained on plane, "
            "digits_density, table or energy"
        )
    return TrainedDensity(network.double().eval(), data_of(checkpoint), describe_run(config))


class Trained(NamedTuple):
    """A trained network in evaluation mode, and the first inputs that it was tested on with their labels."""

    network: Network
    inputs: Tensor
    labels: Tensor


def trained(folder: Path, count: int) -> Trained:
    """What a run folder holds, in double precision."""
    checkpoint = read_checkpoint(checkpoint_in(folder))
    network = module_of(checkpoint).network.double().eval()
    if not isinstance(network, Network):
        raise SchemenetError(
            f"{folder}: this picture is of networks that answer inputs with labels or numbers, and "
            f"{checkpoint['hyper_parameters']['architecture']!r} is none; `schemenet figure --help` lists others"
        )
    inputs, labels = data_of(checkpoint).first(count)
    return Trained(network, inputs.double(), labels)
