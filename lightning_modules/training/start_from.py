"""The start of a training from another run: its weights, and the moments of its optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from architectures.model import Model
from architectures.supervised.insertion import insert
from architectures.supervised.refinement import Projection, is_refinable, projected, refine
from lightning_modules.config.registries import OPTIMIZERS
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.config.validate import Config
from lightning_modules.tasks.base import TaskModule
from lightning_modules.training.loading import TrainedRun, load_run

Moments: TypeAlias = dict[str, dict[str, Any]]
"""The state of an optimiser by the names of parameters."""

SECOND_MOMENTS = ("exp_avg_sq", "exp_inf")
"""Squares and largest values of gradients: never below zero."""


class StartingMoments(Callback):
    """Gives the optimiser of a training its moments at the first step.

    Attributes:
        values: of the optimiser of another run; none where a training begins with none.
    """

    def __init__(self) -> None:
        self.values: Moments = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step or not self.values:
            return
        assert isinstance(pl_module, TaskModule)
        parameters = dict(pl_module.network.named_parameters())
        for name, state in self.values.items():
            parameter = parameters[name]
            copies = {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
            trainer.optimizers[0].state[parameter] = {  # a count of steps stays on the CPU, as torch has it
                key: value.to(parameter.device) if isinstance(value, Tensor) and value.dim() else value
                for key, value in copies.items()
            }


def start(config: ResolvedConfig, network: Model) -> Moments:
    """Give a network the weights of the run in ``start_from``, if there is one.

    Where one of the networks has weights in a basis of functions of time, those of the run are projected, and so are
    the moments of its optimiser; else its steps are inserted between those of the network.

    Args:
        config: of the new run.
        network: its network, changed in place.

    Returns:
        The moments with which its optimiser starts.
    """
    if (place := config.get("start_from")) is None:
        return {}
    run = load_run(Path(place), Model)
    if not is_refinable(run.network, network):
        insert(run.network, network)
        return {}
    projections = refine(run.network, network)
    same = run.config["optimizer"]["name"] == config["optimizer"]["name"]
    return projected_moments(moments_of(run), projections) if same else {}


def moments_of(run: TrainedRun[Any]) -> Moments:
    """The moments that a checkpoint has."""
    states: Sequence[Mapping[str, Any]] = run.checkpoint.get("optimizer_states") or ({"state": {}},)
    names = parameter_order(run.config["optimizer"], run.network)
    return {names[index]: dict(state) for index, state in states[0]["state"].items()}


def parameter_order(optimizer: Config, network: nn.Module) -> list[str]:
    """The names of parameters in the order of an optimiser's state."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    built = OPTIMIZERS.build(optimizer, network=network, total_steps=1)["optimizer"]
    return [names[id(parameter)] for group in built.param_groups for parameter in group["params"]]


def projected_moments(moments: Moments, projections: Sequence[Projection]) -> Moments:
    """Moments as functions of time, in the basis to which the weights were projected.

    So the weights as a function of time go on in the direction in which they went.
    """
    result: Moments = {}
    counts: dict[str, Any] = {}  # of steps, the same for all
    for key in dict.fromkeys(key for state in moments.values() for key in state):
        values = {name: state[key] for name, state in moments.items() if key in state}
        if not all(isinstance(value, Tensor) and value.dim() for value in values.values()):
            counts[key] = next(iter(values.values()))
            continue
        for name, value in projected(values, projections, 0.0 if key in SECOND_MOMENTS else None).items():
            result.setdefault(name, {})[key] = value
    return {name: {**counts, **state} for name, state in result.items()}
