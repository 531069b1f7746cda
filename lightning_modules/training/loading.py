"""The loader of trained runs: from a run folder or a checkpoint to the network, its config and its test data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from architectures.density.base import DensityModel
from architectures.dynamics.neural_ode import NeuralODE
from architectures.model import Model
from architectures.series.base import SeriesModel
from architectures.supervised.network import Network
from lightning_modules.config.compose import validate_stored
from lightning_modules.config.registries import DATA, TASKS
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.config.static_registry import describe_data
from lightning_modules.config.validate import Config
from lightning_modules.data.datamodule import SplitData
from lightning_modules.metrics import task_of
from lightning_modules.storage.atomic_files import read_json
from lightning_modules.storage.run_files import CHECKPOINT, RESULT
from lightning_modules.tasks.base import TaskModule
from lightning_modules.text import printable
from lightning_modules.training.checkpointing import load_plain
from schemes.errors import SchemenetError

ModelT = TypeVar("ModelT", bound=Model)
DataT = TypeVar("DataT", bound=SplitData)

EXPECTED: Mapping[type[Model], str] = {
    DensityModel: "a density, trained on plane, digits_density, table or energy",
    Network: "a network that answers inputs with labels or numbers; `schemenet figure --help` lists pictures of others",
    NeuralODE: (
        "a network with a field of a trajectory's state: neural_ode or universal_ode "
        "(schemenet train experiment=dynamics)"
    ),
    SeriesModel: "a run on irregular series, such as data=spiral_series or physionet",
}
"""What the user is to give where a command needs a network of a class."""


@dataclass(frozen=True)
class TrainedRun(Generic[ModelT]):
    """A trained run, on the CPU.

    Attributes:
        path: the file of the checkpoint.
        checkpoint: its content, whose config is checked: plain data and tensors.
        module: the task's module with the weights, in training mode.
        network: the network of the module.
    """

    path: Path
    checkpoint: Mapping[str, Any]
    module: TaskModule[Model]
    network: ModelT

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.path)!r}: {self.description})"

    @property
    def config(self) -> Config:
        """The resolved config of the run, checked."""
        return self.checkpoint["hyper_parameters"]["config"]

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of the run's ``result.json``; empty where the checkpoint lies alone."""
        path = self.path.parent / RESULT
        return read_json(path) if path.exists() else {}

    @cached_property
    def data(self) -> SplitData:
        """The data of the run, with its splits. Nothing is downloaded."""
        data = DATA.build(self.config["data"], seed=self.config["seed"])
        data.check()
        data.setup()
        return data

    @property
    def description(self) -> str:
        """The network and the data of the run: ``ffjord on plane moons``."""
        return f"{self.config['architecture']['name']} on {describe_data(self.config['data'])}"

    def test_data(self, kind: type[DataT]) -> DataT:
        """The data set of the run, loaded: its test set, also where the run held out a validation split.

        Nothing is downloaded. Raises SchemenetError where the data set is not of the class ``kind``.
        """
        data = DATA.build({**self.config["data"], "validation": None}, seed=0)
        if not isinstance(data, kind):
            raise SchemenetError(f"{str(self.path)!r}: data={self.config['data']['name']} is not for its network")
        data.check()
        data.setup()
        return data

    def untrained(self) -> TaskModule[Model]:
        """The module with the random weights that the run's seed gives to its network."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config["seed"])
            return _module(self.checkpoint["hyper_parameters"])

    def unaveraged(self) -> TaskModule[Model] | None:
        """The module with its last weights where those of the checkpoint are an average; None where they are not."""
        weights = self.checkpoint.get("current_model_state")
        return None if weights is None else _build(self.checkpoint["hyper_parameters"], weights)


def load_run(place: Path, kind: type[ModelT]) -> TrainedRun[ModelT]:
    """Load a trained run.

    Only plain data and tensors are ever unpickled, and the config may name nothing but entries of the registries.

    Args:
        place: a run folder, or a checkpoint.
        kind: the class of network that is needed; ``Model`` for any.

    Raises:
        SchemenetError: where there is no checkpoint of this package, or its network is of another class.
    """
    path = checkpoint_in(place)
    checkpoint = read_checkpoint(path)
    parameters = checkpoint["hyper_parameters"]
    module = _build(parameters, checkpoint["state_dict"])
    network = module.network
    if not isinstance(network, kind):
        raise SchemenetError(
            f"{str(place)!r}: architecture {parameters['architecture']!r} was trained on "
            f"data={parameters['config']['data']['name']}; expected {EXPECTED[kind]}"
        )
    return TrainedRun(path, checkpoint, module, network)


def checkpoint_in(place: Path) -> Path:
    """The newest checkpoint of a run folder, or the file itself."""
    try:
        path = place / CHECKPOINT if place.is_dir() else place
        if path.is_file():
            return path
        exists = place.exists()
    except OSError as error:  # such as a name that is too long
        raise SchemenetError(f"no run folder or checkpoint {printable(str(place))!r}: {error.strerror}") from error
    if not exists:
        raise SchemenetError(f"no run folder or checkpoint {str(place)!r}")
    runs = sorted(str(file.parent) for file in itertools.islice(place.rglob(CHECKPOINT), 100))
    hint = f"; folders below it that do: {', '.join(runs[:3])}{' ...' if len(runs) > 3 else ''}" if runs else ""
    raise SchemenetError(f"{str(place)!r} is no finished run: it holds no {CHECKPOINT}{hint}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this package with its config checked; only plain data and tensors are ever unpickled."""
    checkpoint = load_plain(path)
    parameters = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(parameters, dict) or not parameters.get("config"):
        raise SchemenetError(
            f"{str(path)!r} is no checkpoint that `schemenet train` wrote: it holds no config of a run"
        )
    return {**checkpoint, "hyper_parameters": {**parameters, "config": validate_stored(parameters["config"], path)}}


def _module(parameters: Mapping[str, Any]) -> TaskModule[Model]:
    """The module that a checkpoint describes, with random weights."""
    if missing := {"architecture", "options", "data", "optimizer"} - parameters.keys():
        raise SchemenetError(f"the checkpoint describes no network: {', '.join(sorted(missing))} missing")
    # The recorded config has the defaults that the network was trained with; the options may lack them.
    parameters = {**parameters, "options": ResolvedConfig(parameters["config"]).network_options}
    try:
        return TASKS[task_of(parameters["config"]["data"]["name"])](**parameters)
    except SchemenetError:
        raise
    except Exception as error:  # the content of a foreign file fails in any way
        raise SchemenetError(f"the checkpoint describes no network: {type(error).__name__}: {error}") from error


def _build(parameters: Mapping[str, Any], weights: Mapping[str, Tensor]) -> TaskModule[Model]:
    """The module that a checkpoint describes, with these weights."""
    module = _module(parameters)
    try:
        module.load_state_dict(weights)
    except Exception as error:
        raise SchemenetError(f"the checkpoint's weights do not fit its own network: {error}") from error
    return module
