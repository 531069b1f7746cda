"""Dry run: builds and tries data and network on the meta device before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback

from architectures.costs.ledger import parameters
from architectures.factory import create_model
from architectures.model import Model
from architectures.registry import CLASSIFICATION
from lightning_modules.callbacks.rank_seed import deadlock_reason
from lightning_modules.config.registries import CALLBACKS, DATA, OPTIMIZERS, TASKS, TRAINERS
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.data.datamodule import SplitData
from lightning_modules.loggers.opening import check as check_logger
from lightning_modules.machine import physical_memory
from lightning_modules.metrics import measure_of, task_of
from lightning_modules.storage.atomic_files import check_writable
from lightning_modules.training.start_from import start
from schemes.errors import Problems, SchemenetError, located


def dry_build(config: ResolvedConfig, folder: Path | None = None) -> tuple[SplitData, Model]:
    """Build data module and network and try both, on the meta device.

    Args:
        config: a config whose keys are checked.
        folder: the run folder, which is tried too; None: not.

    Returns:
        The data module, not loaded, and the network on the meta device.

    Raises:
        SchemenetError: with all mistakes at once.
    """
    problems = Problems()
    attempt = problems.attempt
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
                net = create_model(config["architecture"]["name"], **context, **config.network_options)
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
            except Exception as error:
                if isinstance(error, SchemenetError) or not (isinstance(error, RuntimeError) or config.get("imports")):
                    raise
                reason = located(error) if config.get("imports") else error  # of parts from outside, whose line it is
                raise SchemenetError(f"this network cannot run on inputs of shape {shape}: {reason}") from error
            if config["trainer"]["sync_batchnorm"] and (reason := deadlock_reason(net)) is not None:
                raise SchemenetError(f"trainer.sync_batchnorm: {reason}")
            return net

    # Without its data a network for images can be tried on default shapes; one for another task cannot.
    tried = context or task_of(config["data"]["name"]) == CLASSIFICATION
    net = attempt(network) if tried else None
    if config["start_from"] is not None and net is not None:
        attempt(
            lambda: start(config, create_model(config["architecture"]["name"], **context, **config.network_options))
        )
    trainer = attempt(lambda: TRAINERS.build(config["trainer"], folder=Path(), callbacks=[], logger=False))
    trained = create_model("one_layer_mlp", image_size=None) if net is None else net
    attempt(lambda: OPTIMIZERS.build(config["optimizer"], network=trained, total_steps=1, trainer=trainer))
    attempt(lambda: check_logger(config["logger"]))
    attempt(lambda: chosen_callbacks(config, Path()))
    if not 0 <= config["seed"] < 2**32:
        problems.add(f"seed: expected at least 0 and below 2^32, got {config['seed']}")
    if folder is not None:
        attempt(lambda: check_writable(folder))
    problems.raise_if_any()
    assert data is not None
    assert net is not None
    return data, net


def chosen_callbacks(config: ResolvedConfig, folder: Path) -> list[Callback]:
    """The callbacks that a config names, built.

    Args:
        config: of the run.
        folder: of the run.
    """
    data = config["data"]["name"]
    task: Any = TASKS[task_of(data)]
    context = {"folder": folder, "measure": measure_of(data).key, "measures": task.names}
    return [CALLBACKS.build(choice, **context) for choice in config.get("callbacks", ())]
