"""The command ``refine``: a trained network over other steps and in another basis of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from architectures.model import Model
from architectures.supervised.network import Network
from architectures.supervised.refinement import refine
from lightning_modules.config.compose import override_for_refine
from lightning_modules.config.registries import DATA, TRAINERS
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.config.validate import EVAL_KEYS, Config
from lightning_modules.data.datamodule import SplitData
from lightning_modules.evaluation.evaluate import ONE_DEVICE, in_words, test_metrics
from lightning_modules.metrics import MEASURES, measure_of
from lightning_modules.storage.atomic_files import read_json, writable, write_json
from lightning_modules.storage.run_files import CHECKPOINT, CONFIG, REFINED, RESULT
from lightning_modules.tasks.base import TaskModule
from lightning_modules.training.batch_statistics import estimate_statistics
from lightning_modules.training.checkpointing import WholeCheckpoints
from lightning_modules.training.loading import TrainedRun, load_run
from lightning_modules.training.run_folder import find_run, versions
from lightning_modules.training.start_from import moments_of, parameter_order, projected_moments
from schemes.errors import SchemenetError


def refine_run(place: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Project the weights of a trained network to other steps and another basis, test it, and write it as a run.

    Flows keep their end time T, unless the overrides give ``grid.time``: twice the steps have half the size.

    Args:
        place: a run folder or a checkpoint.
        overrides: words of the command line: ``architecture.KEY``, ``sharing``, ``scheme``, ``grid``, ``gradient``, and
            ``folder``.

    Returns:
        The result, also written as ``refined.json``: test metrics as ``trained``, as ``projected``, and with statistics
        of batch norm that were ``reestimated``, where there are any. The checkpoint in ``folder`` has these.

    Raises:
        SchemenetError: where the network cannot be refined so.
    """
    run = load_run(place, Network)
    config = _same_time(ResolvedConfig(override_for_refine(run.config, overrides)), run.network)
    folder = Path(config["folder"] or run.path.parent / f"refined-{config.recipe_hash}")
    _check_folder(folder, run.path, config)
    parameters = {**run.module.hparams, "options": config.network_options, "config": config.complete}
    module = type(run.module)(**parameters)
    projections = refine(run.network, module.network)
    data = DATA.build({**config["data"], "validation": None}, seed=config["seed"])
    data.check()
    writable(folder)
    trainer = TRAINERS.build({**config["trainer"], **ONE_DEVICE}, folder=folder, callbacks=[], logger=False)
    result = _tested(trainer, run, module, data)
    moments = projected_moments(moments_of(run), projections)
    order = parameter_order(config["optimizer"], module.network)
    state = {index: moments[name] for index, name in enumerate(order) if name in moments}
    kept = ("pytorch-lightning_version", "hparams_name")
    checkpoint = {key: run.checkpoint[key] for key in kept if key in run.checkpoint}
    checkpoint |= {"state_dict": module.state_dict(), "hyper_parameters": parameters, "epoch": 0, "global_step": 0}
    checkpoint |= {"optimizer_states": [{"state": state, "param_groups": []}]}
    WholeCheckpoints().save_checkpoint(checkpoint, folder / CHECKPOINT)
    write_json(folder / CONFIG, config.complete)
    result |= {"from": str(place), "checkpoint": str(run.path.resolve())}
    result |= {"measure": measure_of(config["data"]["name"]).key, "folder": str(folder)}
    write_json(folder / REFINED, result | {"versions": versions()})
    return result


def _check_folder(folder: Path, trained: Path, config: ResolvedConfig) -> None:
    """Raise SchemenetError where another run would be overwritten; the same refinement is written again."""
    if folder.resolve() == trained.parent.resolve():
        raise SchemenetError(f"folder: {str(folder)!r} has the trained run; choose another one")
    if (existing := find_run(folder)) is None:
        return
    same = (existing.recipe, existing.seed) == (config.recipe_hash, config["seed"])
    refined = (folder / REFINED).is_file() and not (folder / RESULT).is_file()
    if not (same and refined and read_json(folder / REFINED).get("checkpoint") == str(trained.resolve())):
        raise SchemenetError(f"folder: {str(folder)!r} holds another run; choose another one")


def _tested(
    trainer: pl.Trainer, run: TrainedRun[Network], module: TaskModule[Model], data: SplitData
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "trained": test_metrics(trainer, run.module, data), "projected": test_metrics(trainer, module, data)
    }  # fmt: skip
    if (statistics := estimate_statistics(module, trainer, data, EVAL_KEYS["statistics_batches"].default)) is not None:
        result["reestimated"] = test_metrics(trainer, module, data) | {"statistics": statistics}
    return result


def _same_time(config: ResolvedConfig, network: Network) -> ResolvedConfig:
    """The config with the end time of the trained flows, where it gives none."""
    grid: Config = config["grid"] or {"name": "uniform"}
    if grid.get("time") is not None:
        return config
    times = {flow.time for flow in network.flows}
    if len(times) != 1:
        raise SchemenetError(
            f"refine: the trained flows integrate to different times, {', '.join(f'{t:g}' for t in sorted(times))}; "
            "say grid.time"
        )
    return config.replace(grid={**grid, "time": times.pop()})


def describe(result: dict[str, Any]) -> str:
    """The result as the lines that the command prints."""
    measure, folder = MEASURES[result["measure"]], result["folder"]
    words = {
        "trained": "as trained",
        "projected": "projected",
        "reestimated": "projected, statistics of batch norm re-estimated",
    }
    lines = [f"{text}: {in_words(measure, result[name])}" for name, text in words.items() if name in result]
    further = f"next: schemenet eval {folder}; schemenet train start_from={folder} with the keys of its config.json"
    return "\n".join([*lines, f"written: {folder}", further])
