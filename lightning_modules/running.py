"""One training run: from a checked config to a run folder.

A run folder holds ``config.json`` (resolved), ``metrics.csv``, the checkpoint ``last.ckpt`` (while it runs with
``previous.ckpt`` and ``progress.json`` beside it), and ``result.json`` with final metrics and the ledger, written last:
it is the done mark. A run that was killed before goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from architectures.factory import create_model
from architectures.insertion import insert
from architectures.ledger import flow_parameters, ledger, parameters
from architectures.model import Model
from architectures.registry import CLASSIFICATION
from lightning_modules.checking import Config
from lightning_modules.coefficients import LogCoefficients
from lightning_modules.composing import described, network_options
from lightning_modules.data.splits import SplitData
from lightning_modules.files import check_writable, forget_drafts, read_json, writable, write_json
from lightning_modules.inversion import LogInversion
from lightning_modules.launching.process import physical_memory
from lightning_modules.launching.ranks import launch
from lightning_modules.loggers import METRICS, About, conclude, opened
from lightning_modules.many_devices import OwnRandomNumbers, unequal
from lightning_modules.measures import MEASURES, measure_of, task_of
from lightning_modules.noise_free import noise_free
from lightning_modules.registries import DATA, OPTIMIZERS, TASKS, TRAINERS
from lightning_modules.resuming import BEFORE, NEWEST, Resumable, newest_checkpoint
from lightning_modules.stored import trained_network
from lightning_modules.tasks.base import TaskModule
from lightning_modules.text import short
from lightning_modules.trainers import processes_to_begin
from lightning_modules.wandb_runs import asked_mode
from lightning_modules.work import LogWork
from schemes.errors import FieldError, SchemenetError, SolverError, StepLimitError, TimeLimitError

RESULT, CONFIG, PROGRESS = "result.json", "config.json", "progress.json"
NOT_RECIPE = (
    "folder", "overwrite", "logger", "seed", "data.root", "data.download", "data.decode", "data.workers",
    "trainer.progress_bar", "trainer.oversubscribe", "trainer.checkpoint_every_n_steps",
    "grid.max_steps", "grid.seconds",
)  # fmt: skip
"""Keys that do not change what is computed, only how far it comes, or (the seed) are told apart from it."""

FAILED, DIVERGED, DONE = "failed", "diverged", "done"
"""What becomes of a run: one that has failed goes on by the same command, the others are finished."""

SETS = ("test", "validation")
"""What measures can be of; a result holds those of one set, and None for the other."""

LIMITS = (StepLimitError, TimeLimitError)
"""What ends a solve that might have come to its end; other reasons are the equation's own."""


def dry_build(config: Config, folder: Path | None = None) -> tuple[SplitData, Model]:
    """Build data module and network and try both, on the meta device; SchemenetError tells every mistake at once.

    ``folder`` is tried as well, where one is given.
    """
    wrong: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except SchemenetError as error:
            wrong.append(str(error))
        return None

    data = attempt(lambda: DATA.build(config["data"], seed=max(0, config["seed"])))
    shape: tuple[int, ...] = (3, 32, 32)
    context: dict[str, Any] = {}
    if data is not None:
        attempt(data.check)
        if (known := attempt(lambda: data.context)) is not None:
            shape, context = tuple(data.shape), known

    def network() -> Model:
        with torch.device("meta"), torch.no_grad():
            try:
                net = create_model(config["architecture"]["name"], **context, **network_options(config))
            except (RuntimeError, OverflowError) as error:  # sizes that torch cannot count
                raise SchemenetError(f"this network cannot be made: {str(error).splitlines()[0]}") from error
            weights, memory = sum(p.numel() * p.element_size() for p in net.parameters()), physical_memory()
            if weights > memory:
                raise SchemenetError(
                    f"this network has {parameters(net):.3g} parameters, which take {weights / 1e9:,.0f} GB; this "
                    f"machine has {memory / 1e9:,.0f} GB of memory"
                )
            try:
                net.eval().loss(net.random_batch(shape, 2))
            except RuntimeError as error:
                raise SchemenetError(f"this network cannot run on inputs of shape {shape}: {error}") from error
            if config["trainer"]["sync_batchnorm"] and (reason := unequal(net)) is not None:
                raise SchemenetError(f"trainer.sync_batchnorm: {reason}")
            return net

    # Without its data a network for images can be tried on others; one for another task on none.
    tried = context or task_of(config["data"]["name"]) == CLASSIFICATION
    net = attempt(network) if tried else None
    if config["start_from"] is not None and net is not None:
        attempt(
            lambda: _started(config, create_model(config["architecture"]["name"], **context, **network_options(config)))
        )
    stand_in = torch.nn.Linear(1, 1)
    attempt(lambda: OPTIMIZERS.build(config["optimizer"], network=stand_in, total_steps=1))
    attempt(lambda: TRAINERS.build(config["trainer"], folder=Path(), callbacks=[], logger=False))
    if config["logger"]["name"] == "wandb":
        attempt(lambda: asked_mode(config["logger"]["mode"]))
    if not 0 <= config["seed"] < 2**32:
        wrong.append(f"seed: expected at least 0 and below 2^32, got {config['seed']}")
    if folder is not None:
        attempt(lambda: check_writable(folder))
    if wrong:
        raise SchemenetError("\n".join(dict.fromkeys(wrong)))
    return data, net


def _started(config: Config, network: Model) -> Model:
    """The network with the weights that it is to start from."""
    place = config.get("start_from")
    return network if place is None else insert(trained_network(Path(place)), network)


def recipe_hash(config: Config) -> str:
    """Eight characters that tell two recipes apart; the seed, and where files lie, do not count."""
    return hash_of(described(config))


def hash_of(recipe: Config) -> str:
    """The same of a recipe as it stands, or of the part of it that several share."""
    kept = {
        key: {k: v for k, v in value.items() if f"{key}.{k}" not in NOT_RECIPE} if isinstance(value, dict) else value
        for key, value in recipe.items()
        if key not in NOT_RECIPE
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Held:
    """The run that a folder holds: its recipe and seed, and whether it is finished or may go on from a checkpoint."""

    recipe: str
    seed: int
    finished: bool


def held_run(folder: Path) -> Held | None:
    """What a folder holds; None where there is nothing that could be lost or mixed up."""
    try:
        result = read_json(folder / RESULT)
        return Held(result["recipe"], result["seed"], finished=result["status"] != FAILED)
    except (SchemenetError, KeyError):
        pass
    if not any((folder / name).exists() for name in (NEWEST, BEFORE)):
        return None
    try:
        config = read_json(folder / CONFIG)
        return Held(recipe_hash(config), config["seed"], finished=False)
    except (ValueError, KeyError, TypeError, AttributeError):  # whatever stands there, it is no config
        return Held("unknown", -1, finished=False)


def held_of_this(config: Config, folder: Path) -> Held | None:
    """What a folder holds of this very run; another recipe or seed is refused, with overwrite=true nothing counts."""
    held = None if config.get("overwrite") else held_run(folder)
    if held is not None and (held.recipe, held.seed) != (recipe_hash(config), config["seed"]):
        raise SchemenetError(
            f"folder: {folder} holds a run with another recipe or seed; choose another, or overwrite=true"
        )
    return held


def forget(folder: Path) -> None:
    """Remove what a run left in its folder, so that another begins there."""
    for name in (RESULT, PROGRESS, NEWEST, BEFORE, METRICS):
        with contextlib.suppress(IsADirectoryError, PermissionError):
            (folder / name).unlink(missing_ok=True)


def run_name(config: Config) -> str:
    """A name that no other recipe or seed has."""
    return f"{'-'.join(_names(config))}-{recipe_hash(config)}-s{config['seed']}"


def about(config: Config, network: Model, group: str | None, arm: str | None) -> About:
    """What loggers are told of a run; its name says the network, or the arm of a comparison, the size and the seed."""
    *known_as, data = _names(config)
    size, seed = short(parameters(network)), f"s{config['seed']}"
    return About(
        key=f"{recipe_hash(config)}-{seed}",
        name=f"{arm or '-'.join(known_as)}-{size}-{seed}",
        group=group,
        tags=(*reversed(known_as), data, f"{size} parameters"),
        config=described(config),
    )


def _names(config: Config) -> list[str]:
    """Architecture, scheme, where it takes one, and data set."""
    full = described(config)
    return [full[group]["name"] for group in ("architecture", "scheme", "data") if full.get(group) is not None]


def run_folder(config: Config) -> Path:
    """Where a run is written: ``folder``, or where that is null or ends with a slash, below it under the run's name."""
    named = config["folder"] or "runs/train/"
    return Path(named, run_name(config)) if named.endswith("/") else Path(named)


def versions() -> dict[str, str]:
    names = ("schemenet", "torch", "torchvision", "pytorch-lightning", "timm", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def told_error(result: dict[str, Any]) -> str:
    """The error of a result as people read it, and of which set it is."""
    measure = MEASURES[result.get("measure", "error")]
    for measured in SETS:
        if (value := result.get(f"{measured}_{measure.key}")) is not None:
            return f"{measured} {measure.words} {measure.told(value)}"
    return f"{measure.words} no number"


class Progress(Callback):
    """Writes how far a run is to a small file, for whoever watches several runs."""

    def __init__(self, path: Path, every: int = 5) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero and trainer.global_step % self.every == 0:
            total = max(1, int(trainer.estimated_stepping_batches))
            write_json(self.path, {"step": trainer.global_step, "steps": total})


class StopWhenDiverged(Callback):
    """Ends a run whose training loss is no number: what follows could only waste time."""

    def __init__(self) -> None:
        self.diverged = False

    def state_dict(self) -> dict[str, Any]:
        return {"diverged": self.diverged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.diverged = state["diverged"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop |= self.diverged

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:
            here = not torch.isfinite(outputs["loss"])
            self.diverged = trainer.strategy.reduce_boolean_decision(here, all=False)
            trainer.should_stop |= self.diverged


def train(
    config: Config, folder: Path, *, name: str | None = None, group: str | None = None, arm: str | None = None
) -> dict[str, Any]:
    """Train one network as a checked config says; everything is written into ``folder``. Returns the result.

    An unfinished run of the same recipe and seed goes on where its folder stands, of a finished one the result is
    returned; ``overwrite`` begins it anew.
    A solve that cannot go on ends the run with its reason, as ``diverged``, or as ``failed`` where a limit on steps or
    seconds was reached: such a run is unfinished. ``name`` and ``group`` are for loggers; ``arm`` is what a comparison
    calls the network. On several devices of this machine each has a process, which is begun here.
    """
    if (held := held_of_this(config, folder)) is not None and held.finished:
        return read_json(folder / RESULT)
    if (processes := processes_to_begin(config["trainer"])) == 1:
        return train_rank(config, folder, name=name, group=group, arm=arm)
    launch({"config": config, "folder": str(folder), "name": name, "group": group, "arm": arm}, processes)
    return read_json(folder / RESULT)


def train_rank(config: Config, folder: Path, *, name: str | None, group: str | None, arm: str | None) -> dict[str, Any]:
    """``train`` as one of the processes of a run, often the only one.

    The first alone reads and writes the folder, and says where the run begins; all return its result.
    """
    with contextlib.ExitStack() as stack:  # loggers end with it, whatever becomes of the run
        return _train_rank(config, folder, name or run_name(config), group, arm, stack)


def _train_rank(
    config: Config, folder: Path, name: str, group: str | None, arm: str | None, stack: contextlib.ExitStack
) -> dict[str, Any]:
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    watch = StopWhenDiverged()
    resumable = Resumable(folder, config["trainer"]["checkpoint_every_n_steps"])
    callbacks = [watch, Progress(folder / PROGRESS), OwnRandomNumbers(config["seed"])]
    callbacks += [LogCoefficients(), LogWork(), LogInversion(), resumable]
    trainer = TRAINERS.build(config["trainer"], folder=folder, callbacks=callbacks, logger=False)
    trainer.strategy.setup_environment()  # from here on the processes hear each other
    checkpoint = trainer.strategy.broadcast(_claim(config, folder) if trainer.is_global_zero else None)
    data = DATA.build(config["data"], seed=config["seed"])
    module = TASKS[task_of(config["data"]["name"])](
        config["architecture"]["name"], network_options(config), data.context, config["optimizer"], described(config)
    )
    _started(config, module.network)
    trainer.precision_plugin.convert_module(module)  # before a checkpoint is read: it would be rounded to float32
    if trainer.is_global_zero:
        told = about(config, module.network, group, arm)
        trainer.loggers = stack.enter_context(opened(config["logger"], folder, told, goes_on=checkpoint is not None))
    stopped = _fit(trainer, module, data, checkpoint, resumable)
    metrics = {key: float(value) for key, value in {**resumable.metrics, **trainer.callback_metrics}.items()}
    without_noise: dict[str, Any] = {}
    if stopped is None and not watch.diverged:
        without_noise = noise_free(config, folder, trainer, module, data, metrics)
    if stopped is None and not trainer.is_global_zero:
        return trainer.strategy.broadcast(None)
    result = _result(config, trainer, module, data, name, metrics, watch.diverged) | without_noise
    if arm is not None:
        result["arm"] = arm
    if stopped is not None:
        result |= _outcome(stopped, trainer, module)
    conclude(trainer.loggers, result)
    for needless in (PROGRESS, BEFORE):
        (folder / needless).unlink(missing_ok=True)
    if trainer.is_global_zero:  # last of all: what has a result is not looked at again
        write_json(folder / RESULT, result)
    else:  # it has stopped, as others may have at the same time
        own = folder / f"{RESULT}.{trainer.global_rank}"
        write_json(own, result)
        own.replace(folder / RESULT)
    return result if stopped is not None else trainer.strategy.broadcast(result)


def _fit(
    trainer: pl.Trainer,
    module: TaskModule,
    data: pl.LightningDataModule,
    checkpoint: Path | None,
    resumable: Resumable,
) -> SolverError | None:
    """Train, from a checkpoint where there is one; the solver's error that ended it, if one did."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except FieldError:
        raise
    except SolverError as error:
        return error
    except SchemenetError:
        raise
    except Exception as error:
        if trainer.world_size > 1 and _is_missing_others(error):
            raise SchemenetError(
                f"another process of this run has ended ({str(error).splitlines()[0]}); "
                "the same command goes on from the last checkpoint"
            ) from error
        if checkpoint is None or resumable.goes_on:
            raise
        raise SchemenetError(
            f"{checkpoint} is no checkpoint of this run ({type(error).__name__}: {error}); overwrite=true begins anew"
        ) from error
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # which Lightning makes an end of the process
            raise KeyboardInterrupt from ended
        raise
    return None


def _claim(config: Config, folder: Path) -> Path | None:
    """Make the folder that of this run; the checkpoint from which it goes on, None where it begins."""
    writable(folder)
    held = held_of_this(config, folder)
    checkpoint = newest_checkpoint(folder) if held is not None and not held.finished else None
    if checkpoint is not None:
        (folder / RESULT).unlink(missing_ok=True)
    else:
        forget(folder)
    for name in (RESULT, CONFIG, PROGRESS, NEWEST, METRICS):
        forget_drafts(folder / name)
    write_json(folder / CONFIG, described(config))
    return checkpoint


def _is_missing_others(error: Exception) -> bool:
    """Whether it says that another process is gone; gloo has no exception of its own."""
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def _outcome(stopped: SolverError, trainer: pl.Trainer, module: TaskModule) -> dict[str, Any]:
    """What a solve that could not go on makes of a run's result."""
    status = FAILED if isinstance(stopped, LIMITS) else DIVERGED
    reason = f"in epoch {trainer.current_epoch}, after {trainer.global_step} training steps: {stopped}"
    return {"status": status, "reason": reason, **dict.fromkeys(_measured(module))}


def _measured(module: TaskModule) -> list[str]:
    """The names of a result's measures: ``test_error``, ``validation_loss`` ..."""
    return [f"{of}_{name}" for of in SETS for name in module.names]


def _samples_per_step(trainer: pl.Trainer, data: SplitData) -> int:
    """Those of a whole step, all devices together; a small set may not fill a batch, nor an epoch its window."""
    batches = min(trainer.accumulate_grad_batches, trainer.num_training_batches or 1)
    return int(data.samples_per_batch(trainer.world_size) * trainer.world_size * batches)


def _costs(network: Model, shape: tuple[int, ...], batch_size: int) -> dict[str, Any]:
    """The ledger of a trained network. What goes wrong in counting is said there, and costs no result."""
    try:
        return {"ledger": ledger(network, shape, batch_size)}
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"
        print(f"schemenet: the costs of a training step could not be counted ({reason})", file=sys.stderr)
        sizes = {"parameters": parameters(network), "flow_parameters": flow_parameters(network)}
        return {"ledger": sizes | {"batch_size": batch_size}, "ledger_failure": reason}


def _result(
    config: Config,
    trainer: pl.Trainer,
    module: TaskModule,
    data: SplitData,
    name: str,
    metrics: dict[str, float],
    diverged: bool,
) -> dict[str, Any]:
    found = {key: metrics.get(key.replace("_", "/", 1), math.nan) for key in (*_measured(module), "train_loss")}
    measure = measure_of(config["data"]["name"])
    checked = {measure.key, "loss"} & set(module.names)  # an error stays finite where its loss does not
    not_finite = [name for name in sorted(checked) if not math.isfinite(found[f"{data.measures}_{name}"])]
    if diverged:
        reason = "the training loss is NaN or infinite"
    elif not_finite:
        reason = f"the {data.measures} {not_finite[0]} is NaN or infinite"
    else:
        reason = None
    network, samples = module.network.cpu(), data.samples_per_batch(trainer.world_size)
    return {
        "name": name,
        "seed": config["seed"],
        "status": DONE if reason is None else DIVERGED,
        **({} if reason is None else {"reason": f"after {trainer.global_step} training steps: {reason}"}),
        "epochs": trainer.current_epoch,
        "measure": measure.key,
        **{key: value if math.isfinite(value) else None for key, value in found.items()},
        "weights": "last" if config["trainer"]["ema"] is None else "averaged",
        **_costs(network, tuple(data.shape), samples),
        "layout": network.layout,
        "devices": trainer.world_size,
        "samples_per_step": _samples_per_step(trainer, data),
        "recipe": recipe_hash(config),
        "versions": versions(),
    }
