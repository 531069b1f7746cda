"""One training run: from a checked config to a run folder.

A run folder contains ``config.json`` (resolved), ``metrics.csv``, the checkpoint ``last.ckpt`` (during the run also
``previous.ckpt`` and ``progress.json``), and ``result.json`` with final metrics and the ledger, which is written last
and marks the run as done. A run that was killed before resumes from its checkpoint.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from architectures.costs.ledger import flow_parameters, ledger, parameters
from architectures.model import Model
from lightning_modules.callbacks.inversion_error import InversionErrorLogger
from lightning_modules.callbacks.optimization import EpochTimer, OptimizationLogger
from lightning_modules.callbacks.rank_seed import RankSeed
from lightning_modules.callbacks.run_status import Progress, StopWhenDiverged
from lightning_modules.callbacks.scheme_coefficients import SchemeCoefficientLogger
from lightning_modules.callbacks.selection import ResultCallback
from lightning_modules.callbacks.solver_cost import SolverCostLogger
from lightning_modules.config.registries import DATA, TASKS, TRAINERS
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.data.datamodule import SplitData
from lightning_modules.loggers.base import About
from lightning_modules.loggers.opening import conclude, opened
from lightning_modules.metrics import measure_of, task_of
from lightning_modules.storage.atomic_files import remove_drafts, writable, write_json
from lightning_modules.storage.run_files import (
    BEST_CHECKPOINT,
    CHECKPOINT,
    CONFIG,
    METRICS,
    PREVIOUS_CHECKPOINT,
    PROGRESS,
    RESULT,
)
from lightning_modules.tasks.base import TaskModule
from lightning_modules.text import short
from lightning_modules.training.checkpointing import Resumable, newest_checkpoint
from lightning_modules.training.dry_run import chosen_callbacks
from lightning_modules.training.noise_free import noise_free
from lightning_modules.training.provenance import provenance
from lightning_modules.training.run_folder import (
    DIVERGED,
    DONE,
    FAILED,
    SETS,
    clear_run,
    find_same_run,
    run_name,
    versions,
)
from lightning_modules.training.start_from import StartingMoments, start
from schemes.errors import FieldError, SchemenetError, SolverError, StepLimitError, TimeLimitError

LIMITS = (StepLimitError, TimeLimitError)
"""Errors of solves that a higher limit would let finish; others are due to the equation."""


def about(config: ResolvedConfig, network: Model, group: str | None, arm: str | None) -> About:
    """The description of a run for loggers.

    Args:
        config: of the run.
        network: its network, whose size is part of the name.
        group: the comparison or sweep that the run is part of.
        arm: the name of the network in a comparison, which the run's name then begins with.
    """
    *networks, data = config.names
    size, seed = short(parameters(network)), f"s{config['seed']}"
    return About(
        key=f"{config.recipe_hash}-{seed}",
        name=f"{arm or '-'.join(networks)}-{size}-{seed}",
        group=group,
        tags=(*reversed(networks), data, f"{size} parameters"),
        config=config.complete,
    )


def train_rank(
    config: ResolvedConfig,
    folder: Path,
    *,
    name: str | None,
    group: str | None,
    arm: str | None,
    ledger: Mapping[str, int] | None,
) -> dict[str, Any]:
    """Train as one of the processes of a run, often the only one; arguments are those of ``train``.

    The first process alone reads and writes the folder, and prints where the run resumes; all return its result.
    """
    atexit.unregister(_end_process_group)
    with contextlib.ExitStack() as stack:  # loggers end with it, whatever becomes of the run
        result = _train_rank(config, folder, name or run_name(config), group, arm, ledger, stack)
    if "reason" not in result:  # else others may be waiting in a collective, and the end would wait for it
        atexit.register(_end_process_group)
    return result


def _end_process_group() -> None:
    """End the threads of gloo: one that releases a tensor while Python ends aborts the process."""
    gc.collect()  # DDP keeps the group, and is part of a cycle
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _train_rank(
    config: ResolvedConfig,
    folder: Path,
    name: str,
    group: str | None,
    arm: str | None,
    known_costs: Mapping[str, int] | None,
    stack: contextlib.ExitStack,
) -> dict[str, Any]:
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    watch = StopWhenDiverged()
    resumable = Resumable(folder, config["trainer"]["checkpoint_every_n_steps"])
    moments = StartingMoments()
    callbacks = [watch, moments, Progress(folder / PROGRESS), RankSeed(config["seed"])]
    callbacks += [SchemeCoefficientLogger(), OptimizationLogger(), SolverCostLogger(), InversionErrorLogger()]
    chosen = chosen_callbacks(config, folder)
    callbacks += [EpochTimer(), *chosen, resumable]
    trainer = TRAINERS.build(config["trainer"], folder=folder, callbacks=callbacks, logger=False)
    trainer.strategy.setup_environment()  # from here on the processes communicate
    data = DATA.build(config["data"], seed=config["seed"])
    module = TASKS[task_of(config["data"]["name"])](
        config["architecture"]["name"], config.network_options, data.context, config["optimizer"], config.complete
    )
    moments.values = start(config, module.network)
    trainer.precision_plugin.convert_module(module)  # before a checkpoint is read: it would be rounded to float32
    if trainer.local_rank == 0:
        data.prepare_data()
    trainer.strategy.barrier()
    data.setup()  # whose mistakes leave nothing in the folder
    checkpoint = trainer.strategy.broadcast(_prepare_folder(config, folder) if trainer.is_global_zero else None)
    if trainer.is_global_zero:
        description = about(config, module.network, group, arm)
        trainer.loggers = stack.enter_context(
            opened(config["logger"], folder, description, resumes=checkpoint is not None)
        )
    stopped = _fit(trainer, module, data, checkpoint, resumable)
    metrics = {key: float(value) for key, value in {**resumable.metrics, **trainer.callback_metrics}.items()}
    without_noise: dict[str, Any] = {}
    if stopped is None and not watch.diverged:
        without_noise = noise_free(config, folder, trainer, module, data, metrics)
    if stopped is None and not trainer.is_global_zero:
        return trainer.strategy.broadcast(None)
    result = _result(config, trainer, module, data, name, metrics, watch.diverged, known_costs) | without_noise
    for callback in chosen:
        result |= callback.result() if isinstance(callback, ResultCallback) else {}
    if arm is not None:
        result["arm"] = arm
    if stopped is not None:
        result |= _outcome(stopped, trainer, module)
    conclude(trainer.loggers, result)
    for needless in (PROGRESS, PREVIOUS_CHECKPOINT):
        (folder / needless).unlink(missing_ok=True)
    if trainer.is_global_zero:  # last of all: what has a result is not looked at again
        write_json(folder / RESULT, result)
    else:  # it has stopped, as others may have at the same time
        path = folder / f"{RESULT}.{trainer.global_rank}"
        write_json(path, result)
        path.replace(folder / RESULT)
    return result if stopped is not None else trainer.strategy.broadcast(result)


def _fit(
    trainer: pl.Trainer,
    module: TaskModule[Model],
    data: SplitData,
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
                "the same command resumes from the last checkpoint"
            ) from error
        if checkpoint is None or resumable.has_resumed:
            raise
        raise SchemenetError(
            f"{checkpoint} is no checkpoint of this run ({type(error).__name__}: {error}); overwrite=true begins anew"
        ) from error
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # which Lightning makes an end of the process
            raise KeyboardInterrupt from ended
        raise
    return None


def _prepare_folder(config: ResolvedConfig, folder: Path) -> Path | None:
    """Clear or keep the files of an earlier run, and write the config.

    Returns:
        The checkpoint to resume from; None where the run begins.
    """
    writable(folder)
    existing = find_same_run(config, folder)
    checkpoint = newest_checkpoint(folder) if existing is not None and not existing.finished else None
    if checkpoint is not None:
        (folder / RESULT).unlink(missing_ok=True)
    else:
        clear_run(folder)
    for name in (RESULT, CONFIG, PROGRESS, CHECKPOINT, BEST_CHECKPOINT, METRICS):
        remove_drafts(folder / name)
    write_json(folder / CONFIG, config.complete)
    return checkpoint


def _is_missing_others(error: Exception) -> bool:
    """Whether the error says that another process is gone; gloo raises a plain RuntimeError."""
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def _outcome(stopped: SolverError, trainer: pl.Trainer, module: TaskModule[Model]) -> dict[str, Any]:
    """The entries of the result of a run that a failed solve has ended."""
    status = FAILED if isinstance(stopped, LIMITS) else DIVERGED
    reason = f"in epoch {trainer.current_epoch}, after {trainer.global_step} training steps: {stopped}"
    return {"status": status, "reason": reason, **dict.fromkeys(_measured(module))}


def _measured(module: TaskModule[Model]) -> list[str]:
    """The names of a result's measures: ``test_error``, ``validation_loss`` ..."""
    return [f"{of}_{name}" for of in SETS for name in module.names]


def _samples_per_step(trainer: pl.Trainer, data: SplitData) -> int:
    """Samples of an optimiser step on all devices; a small set may fill neither a batch nor a window of batches."""
    batches = min(trainer.accumulate_grad_batches, trainer.num_training_batches or 1)
    return int(data.samples_per_batch(trainer.world_size) * trainer.world_size * batches)


def run_costs(network: Model, shape: tuple[int, ...], batch_size: int) -> dict[str, Any]:
    """The ledger of a trained network; an error in counting is reported there, and the result is kept."""
    try:
        return {"ledger": ledger(network, shape, batch_size)}
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"
        print(f"schemenet: the costs of a training step could not be counted ({reason})", file=sys.stderr)
        sizes = {"parameters": parameters(network), "flow_parameters": flow_parameters(network)}
        return {"ledger": sizes | {"batch_size": batch_size}, "ledger_failure": reason}


def _result(
    config: ResolvedConfig,
    trainer: pl.Trainer,
    module: TaskModule[Model],
    data: SplitData,
    name: str,
    metrics: dict[str, float],
    diverged: bool,
    known_costs: Mapping[str, int] | None,
) -> dict[str, Any]:
    results = {key: metrics.get(key.replace("_", "/", 1), math.nan) for key in (*_measured(module), "train_loss")}
    measure = measure_of(config["data"]["name"])
    checked = {measure.key, "loss"} & set(module.names)  # an error stays finite where its loss does not
    not_finite = [name for name in sorted(checked) if not math.isfinite(results[f"{data.eval_split}_{name}"])]
    if diverged:
        reason = "the training loss is NaN or infinite"
    elif not_finite:
        reason = f"the {data.eval_split} {not_finite[0]} is NaN or infinite"
    else:
        reason = None
    network, samples = module.network.cpu(), data.samples_per_batch(trainer.world_size)
    fits = known_costs is not None and known_costs["batch_size"] == samples
    return {
        "name": name,
        "seed": config["seed"],
        "status": DONE if reason is None else DIVERGED,
        **({} if reason is None else {"reason": f"after {trainer.global_step} training steps: {reason}"}),
        "epochs": trainer.current_epoch,
        "measure": measure.key,
        **{key: value if math.isfinite(value) else None for key, value in results.items()},
        "weights": "last" if config["trainer"]["ema"] is None else "averaged",
        **({"ledger": known_costs} if fits else run_costs(network, tuple(data.shape), samples)),
        "layout": network.layout,
        "devices": trainer.world_size,
        "samples_per_step": _samples_per_step(trainer, data),
        "recipe": config.recipe_hash,
        "versions": versions(),
        "provenance": provenance(trainer.strategy.root_device),
    }
