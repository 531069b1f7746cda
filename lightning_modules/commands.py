"""The commands ``train``, ``eval`` and ``compare`` as functions, and the loader of trained runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from architectures.costs.ledger import parameters
from architectures.model import Model
from lightning_modules.comparing.records import Comparison, read_comparison
from lightning_modules.comparing.run import carry_out_comparison
from lightning_modules.config.compose import compose
from lightning_modules.config.overrides import refuse_repeated, words_of
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.evaluation import evaluate as evaluation
from lightning_modules.evaluation import export as exporting
from lightning_modules.evaluation import refine as refinement
from lightning_modules.launching import multi_process
from lightning_modules.launching.run_lock import locked
from lightning_modules.storage.atomic_files import read_json
from lightning_modules.storage.run_files import RESULT
from lightning_modules.training.dry_run import dry_build
from lightning_modules.training.loading import TrainedRun, load_run
from lightning_modules.training.run_folder import DONE, find_same_run, run_folder, run_name
from schemes.errors import SchemenetError

Place = str | PathLike[str] | TrainedRun[Any]
"""A run folder, a checkpoint, or a run that is loaded."""

ABSENT = (None, [], "none", "-")
"""Values of a layout that say that a network has no such thing."""


def load(place: Place) -> TrainedRun[Model]:
    """Load a trained run.

    Nothing but plain data and tensors is unpickled, and no code is imported: a run with parts from another package
    needs that package to be imported before.

    Args:
        place: a run folder or a checkpoint.

    Returns:
        The run, with ``network`` (in evaluation mode, on the CPU), ``config``, ``metrics`` and ``data``.

    Raises:
        SchemenetError: there is no run, or it needs a module that is not imported.
    """
    run = load_run(_path(place), Model)
    run.module.eval()
    return run


def train(*words: str, config_dir: str | None = None, **options: Any) -> TrainedRun[Model]:
    """Train one network, as ``schemenet train`` does. A run that is done is loaded, an unfinished one resumes.

    Args:
        words: of the command line, such as ``"scheme=rk4"`` and ``"trainer.max_epochs=2"``.
        config_dir: a folder with yaml files of your own.
        options: the same as keywords: ``scheme="rk4"``, ``trainer={"max_epochs": 2}``.

    Returns:
        The trained run, as of :func:`load`.

    Raises:
        SchemenetError: with every mistake, or the reason why the run is not done.
    """
    _, folder, result = train_config(_composed("train", words, options, config_dir), print)
    if result["status"] != DONE:
        raise SchemenetError(f"the run is {result['status']}: {result.get('reason', 'see its metrics')}; {folder}")
    return load(folder)


def train_config(config: ResolvedConfig, announce: Callable[[str], None]) -> tuple[bool, Path, dict[str, Any]]:
    """Train the network of a config, unless that is done.

    Args:
        config: a checked config.
        announce: gets what is trained, in a line or two, before a training begins.

    Returns:
        Whether there was something to train, the run folder, and the content of its ``result.json``.
    """
    folder = run_folder(config)
    _, network = dry_build(config, folder)
    existing = find_same_run(config, folder)
    if existing is not None and existing.finished:
        return False, folder, read_json(folder / RESULT)
    announce(f"{run_name(config)}: {parameters(network):,} parameters")
    announce(", ".join(f"{key} {value}" for key, value in network.layout.items() if value not in ABSENT))
    with locked(folder):
        return True, folder, multi_process.train(config, folder)


def evaluate(place: Place, *words: str, **options: Any) -> dict[str, Any]:
    """Test a trained network again, as ``schemenet eval`` does; one with shared weights also under another scheme.

    Args:
        place: a run folder, a checkpoint, or a loaded run.
        words: of the command line, such as ``"scheme=rk4"``.
        options: the same as keywords: ``scheme="rk4"``, ``grid={"steps": 8}``.

    Returns:
        The results: ``trained``, and ``changed`` under another scheme or grid.

    Raises:
        SchemenetError: with every mistake, overrides of what the weights were trained for included.
    """
    overrides = words_of(words, options)
    refuse_repeated(overrides)
    return evaluation.evaluate(_path(place), overrides)


def refine(place: Place, *words: str, **options: Any) -> dict[str, Any]:
    """Project the weights of a trained network to another basis and other steps, as ``schemenet refine`` does.

    Args:
        place: a run folder, a checkpoint, or a loaded run.
        words: of the command line, such as ``"architecture.steps=8"``.
        options: the same as keywords: ``sharing={"size": 8}``, ``folder="runs/finer"``.

    Returns:
        The results: test metrics as ``trained``, ``projected`` and ``reestimated``, and the ``folder`` of the new run.

    Raises:
        SchemenetError: with every mistake, overrides of what the weights were trained for included.
    """
    overrides = words_of(words, options)
    refuse_repeated(overrides)
    return refinement.refine_run(_path(place), overrides)


def export(place: Place, out: str | PathLike[str]) -> float:
    """Write a trained network as a file for ONNX or ``torch.export``, as ``schemenet export`` does.

    Args:
        place: a run folder, a checkpoint, or a loaded run.
        out: a file that ends with ``.onnx`` or ``.pt2``; one that exists is replaced.

    Returns:
        The largest difference between the outputs of the file and of the network on random inputs.

    Raises:
        SchemenetError: the network cannot be exported.
    """
    return exporting.export(_path(place), Path(fspath(out)))


def compare(*words: str, config_dir: str | None = None, **options: Any) -> Comparison:
    """Train several networks under one budget and write the report, as ``schemenet compare`` does.

    Args:
        words: of the command line, such as ``"budget=0.1M"``.
        config_dir: a folder with yaml files of your own.
        options: the same as keywords: ``networks=["rk2", "reversible"]``, ``seeds=8``.

    Returns:
        The records of the comparison: its arms, and each of their runs.

    Raises:
        SchemenetError: with every mistake.
    """
    config = _composed("compare", words, options, config_dir)
    folder, _ = carry_out_comparison(config, "schemenet.compare")
    return read_comparison(folder)


def _composed(
    command: str, words: tuple[str, ...], options: Mapping[str, Any], config_dir: str | None
) -> ResolvedConfig:
    overrides = words_of(words, options)
    refuse_repeated(overrides)
    return compose(command, overrides, config_dir)


def _path(place: Place) -> Path:
    if isinstance(place, TrainedRun):
        return place.path
    if not isinstance(place, str | PathLike):
        raise SchemenetError(f"expected a run folder, a checkpoint or a loaded run, got {place!r}")
    return Path(fspath(place))
