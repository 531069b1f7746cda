"""One training run: from a checked config to a run folder.

A run folder holds ``config.json`` (resolved), ``metrics.csv``, the checkpoint ``last.ckpt``, ``progress.json`` while it
runs, and ``result.json`` with final metrics and the ledger, written last: it is the done mark.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from architectures.factory import create_model
from architectures.ledger import ledger
from architectures.network import Network
from lightning_modules.classification import ClassificationModule
from lightning_modules.coefficients import LogCoefficients
from lightning_modules.composing import Config, check_writable, described, network_options, writable
from lightning_modules.loggers import wandb_mode
from lightning_modules.registries import DATA, LOGGERS, OPTIMIZERS, TRAINERS
from schemes.errors import SchemenetError

RESULT, CONFIG, PROGRESS = "result.json", "config.json", "progress.json"
NOT_RECIPE = ("folder", "overwrite", "logger", "seed", "data.root", "data.download", "trainer.progress_bar")
"""Keys that do not change what is computed, or (the seed) are told apart from it."""


def data_context(data: pl.LightningDataModule) -> dict[str, Any]:
    """What ``create_model`` needs to know of the data."""
    channels, *size = data.shape
    return {"num_classes": data.num_classes, "in_chans": channels, "image_size": size[0] if size else None}


def dry_build(config: Config, folder: Path | None = None) -> tuple[pl.LightningDataModule, Network]:
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
        if (known := attempt(lambda: data_context(data))) is not None:
            shape, context = tuple(data.shape), known

    def network() -> Network:
        with torch.device("meta"), torch.no_grad():
            net = create_model(config["architecture"]["name"], **context, **network_options(config))
            try:
                net.eval()(torch.empty(2, *shape))
            except RuntimeError as error:
                raise SchemenetError(f"this network cannot run on inputs of shape {shape}: {error}") from error
            return net

    net = attempt(network)
    stand_in = torch.nn.Linear(1, 1)
    attempt(lambda: OPTIMIZERS.build(config["optimizer"], network=stand_in, total_steps=1))
    attempt(lambda: TRAINERS.build(config["trainer"], folder=Path(), callbacks=[], logger=False))
    if config["logger"]["name"] == "wandb":
        attempt(lambda: wandb_mode(config["logger"]["mode"]))
    if not 0 <= config["seed"] < 2**32:
        wrong.append(f"seed: expected at least 0 and below 2^32, got {config['seed']}")
    if folder is not None:
        attempt(lambda: check_writable(folder))
    if wrong:
        raise SchemenetError("\n".join(dict.fromkeys(wrong)))
    return data, net


def recipe_hash(config: Config) -> str:
    """Eight characters that tell two recipes apart; the seed, and where files lie, do not count."""
    kept = {
        key: {k: v for k, v in value.items() if f"{key}.{k}" not in NOT_RECIPE} if isinstance(value, dict) else value
        for key, value in described(config).items()
        if key not in NOT_RECIPE
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def held_recipe(folder: Path) -> tuple[str, int] | None:
    """Recipe and seed of the finished run in a folder; None where there is none."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return result["recipe"], result["seed"]
    except (OSError, ValueError, KeyError):
        return None


def run_name(config: Config) -> str:
    full = described(config)
    scheme = (full.get("scheme") or {"name": "fractal"})["name"]
    return f"{full['architecture']['name']}-{scheme}-{full['data']['name']}-{recipe_hash(config)}-s{full['seed']}"


def versions() -> dict[str, str]:
    names = ("schemenet", "torch", "torchvision", "pytorch-lightning", "timm", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


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

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0 and not torch.isfinite(outputs["loss"]):
            self.diverged = True
            trainer.should_stop = True


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, path)


def train(
    config: Config, folder: Path, *, name: str | None = None, group: str | None = None, arm: str | None = None
) -> dict[str, Any]:
    """Train one network as a checked config says; everything is written into ``folder``. Returns the result.

    ``name`` and ``group`` are for loggers; ``arm`` is what a comparison calls the network.
    """
    writable(folder)
    if name is None:
        name = run_name(config)
    write_json(folder / CONFIG, described(config))
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    data = DATA.build(config["data"], seed=config["seed"])
    context = data_context(data)
    options = network_options(config)
    module = ClassificationModule(config["architecture"]["name"], options, context, config["optimizer"])
    checkpoint = ModelCheckpoint(folder, filename="last", save_top_k=1, enable_version_counter=False)
    loggers = LOGGERS.build(config["logger"], folder=folder, name=name, group=group)
    watch = StopWhenDiverged()
    callbacks = [checkpoint, watch, Progress(folder / PROGRESS), LogCoefficients()]
    trainer = TRAINERS.build(config["trainer"], folder=folder, callbacks=callbacks, logger=loggers)
    trainer.fit(module, datamodule=data)
    result = _result(config, trainer, module, data, name, watch.diverged) | ({"arm": arm} if arm is not None else {})
    for logger in loggers:
        logger.log_metrics({f"ledger/{key}": value for key, value in result["ledger"].items()})
        logger.finalize("success")
    if trainer.is_global_zero:
        (folder / PROGRESS).unlink(missing_ok=True)
        write_json(folder / RESULT, result)
    return result


def _result(
    config: Config,
    trainer: pl.Trainer,
    module: ClassificationModule,
    data: pl.LightningDataModule,
    name: str,
    diverged: bool,
) -> dict[str, Any]:
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    error = metrics.get("test/error", math.nan)
    diverged = diverged or not math.isfinite(metrics.get("test/loss", math.nan))
    network = module.network.cpu()
    return {
        "name": name,
        "seed": config["seed"],
        "status": "diverged" if diverged else "done",
        "epochs": trainer.current_epoch,
        "test_error": error if math.isfinite(error) else None,
        "test_loss": metrics["test/loss"] if math.isfinite(metrics.get("test/loss", math.nan)) else None,
        "train_loss": metrics["train/loss"] if math.isfinite(metrics.get("train/loss", math.nan)) else None,
        "ledger": ledger(network, tuple(data.shape), data.batch_size),
        "layout": network.layout,
        "recipe": recipe_hash(config),
        "versions": versions(),
    }
