"""Neural ordinary differential equations of trajectories, with or without a known part of the equation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from architectures.arguments import augmented, build_field, name_of, require, require_vector_field, scaled
from architectures.dynamics.base import TrajectoryModel
from architectures.dynamics.systems import System
from architectures.model import layout_along
from architectures.observations import SeriesBatch
from architectures.registry import ARCHITECTURES, SYSTEMS
from architectures.standardizer import Standardizer
from schemes.core.node import Node
from schemes.core.scheme import Coefficient
from schemes.errors import SchemenetError
from schemes.errors import unknown as unknown_word
from schemes.ivp.trajectory_flow import TrajectoryFlow
from schemes.registry import SCHEMES
from schemes.schema import Spec


class Learned(nn.Module):
    """rate * field(t / span, (y - location) / scale): a field whose inputs and outputs are of order 1.

    Args:
        units: the standardizer of the whole state.
        field: on the channels of one part of the state.
        reads: the channels that y holds.
        writes: the channels whose rate this is.
    """

    def __init__(self, units: Standardizer, field: nn.Module, reads: slice, writes: slice) -> None:
        super().__init__()
        self.units, self.field, self.reads, self.writes = units, field, reads, writes

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        units = self.units
        standardized = (y - units.location[self.reads]) / units.scale[self.reads]
        return units.rate[self.writes] * self.field(Node(0, t / units.span, 0.0), standardized)


class Known(nn.Module):
    """A system, on a state that may have further channels, whose rate is 0."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        channels = len(self.system.channels)
        return functional.pad(self.system(t, y[..., :channels]), (0, y.shape[-1] - channels))


class Sum(nn.ModuleList):
    """The sum of functions of (t, y)."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return reduce(torch.add, (part(t, y) for part in self))


class NeuralODE(TrajectoryModel):
    """The solution of y' = f(t, y) through the observed state, to which ``augment`` channels, 0 there, are appended.

    A uniform grid has its steps over the time that the training series span, and continues in steps of that size
    beyond, whatever the target times are: what is learned by coarse steps is used by the same ones.

    Args:
        path: the solve of f through given times.
        units: the standardizer of the state.
        channels: of the series.
        augment: appended channels.
        layout: see :class:`architectures.model.Model`.
    """

    def __init__(self, path: TrajectoryFlow, units: Standardizer, channels: int, augment: int, layout: dict) -> None:
        super().__init__(units, channels)
        self.path, self.augment, self.layout = path, augment, layout

    @property
    def system(self) -> System | None:
        """The known part of f, with its constants as learned; None without one."""
        return next((module for module in self.path.modules() if isinstance(module, System)), None)

    def coefficients(self) -> dict[str, Coefficient]:
        """Those of the scheme, and the constants of the known part that are learned: ``known/alpha``."""
        learned = {name: value for name, value in constants(self.system).items() if value.requires_grad}
        known = {f"known/{name}": Coefficient(name, 0, value, -math.inf, math.inf) for name, value in learned.items()}
        return {**super().coefficients(), **known}

    def no_weight_decay(self) -> set[str]:
        """The constants of the known part as well: decay would pull them towards another equation."""
        known = {id(value) for value in constants(self.system).values()}
        return super().no_weight_decay() | {name for name, p in self.named_parameters() if id(p) in known}

    def rate(self, t: Tensor, y: Tensor) -> Tensor:
        """f(t, y), of the whole state."""
        functions = self.path.functions
        halves = y.chunk(len(functions), -1)
        return torch.cat([f(t, half) for f, half in zip(functions, reversed(halves), strict=True)], -1)

    def initial(self, batch: SeriesBatch) -> Tensor:
        """The observed state with the augmented channels."""
        return functional.pad(batch.observed.values[:, 0], (0, self.augment))

    def forward(self, batch: SeriesBatch) -> Tensor:
        states = self.states(self.initial(batch), batch.observed.times[0], batch.targets.times)
        return states[..., : self.channels].transpose(0, 1)

    def states(self, y: Tensor, start: Tensor, times: Tensor) -> Tensor:
        """The state at later times.

        Args:
            y: the state at the start, (batch, channels), or (batch, channels + augment) with further channels.
            start: the time of the start.
            times: after it, (times,).

        Returns:
            The states, (times, batch, channels).
        """
        parts = self.path.scheme.components
        begin = y if parts == 1 else y.chunk(parts, -1)
        values = self.path.through(begin, times, start=start, unit=self.units.span)
        return values if parts == 1 else torch.cat(values, -1)


@ARCHITECTURES.register("neural_ode", task="trajectory")
def neural_ode(
    system: System | None = None,  # positional-only ones are no options: these are for universal_ode
    learns_field: bool = True,
    /,
    in_chans: int = 2,
    *,
    steps: int = 16,
    augment: int = 0,
    hidden: int = 64,
    width: float = 1.0,
    inner: float = 1.0,
    field: Spec = {"name": "mlp", "layers": 2},  # noqa: B006  read only
    scheme: Spec = "rk4",
    grid: Spec = "uniform",
    gradient: Spec = "backprop",
) -> NeuralODE:
    r"""The solution of y' = f(t, y) through the first observed state; f is learned.

    A coupled scheme (verlet, symplectic_euler) moves the first half of the channels by a field of the second half, and
    the other way round: positions and momenta of a separable system without friction.

    Args:
        in_chans: channels of the series.
        steps: of a uniform grid over the span of the training series.
        augment: further channels of the state, which begin as 0.
        hidden: width of the field's hidden layers.
        width: factor of ``hidden``.
        inner: further factor of it.
        field: the learned part of f, a field on vectors.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", NeurIPS 2018,
    arXiv:1806.07366.
    """
    require(hidden=hidden, width=width, inner=inner, steps=steps)
    inside = scaled([hidden], width * inner)[0] if learns_field else 0
    require_vector_field(field)
    parts = SCHEMES.build(scheme).components
    if parts > 1 and system is not None:
        raise SchemenetError(
            f"scheme {name_of(scheme)!r} moves each half of a state by the other one alone, and a known system is of "
            "the whole state; use a scheme of one component, such as rk4"
        )
    total = augmented(in_chans, augment, parts)
    units = Standardizer(total)
    halves = [slice(i * total // parts, (i + 1) * total // parts) for i in range(parts)]
    functions = []
    for writes, reads in zip(halves, reversed(halves), strict=True):
        of_known = [Known(system)] if system is not None else []
        size = total // parts
        built = [build_field(field, channels=size, out=size, inner=inside)] if inside else []
        functions.append(Sum([*of_known, *(Learned(units, one, reads, writes) for one in built)]))
    spec: dict[str, Any] = dict(grid) if isinstance(grid, Mapping) else {"name": grid}
    if spec["name"] == "uniform" and spec.get("steps") is None:
        spec["steps"] = steps
    path = TrajectoryFlow(functions, scheme, spec, gradient)
    layout = layout_along(
        path, widths=[total], inner=[inside], stem="none", field=name_of(field) if inside else "none",
        scheme=name_of(scheme),
    ) | {"augment": augment}  # fmt: skip
    return NeuralODE(path, units, in_chans, augment, layout)


@ARCHITECTURES.register("universal_ode", extends="neural_ode", task="trajectory")
def universal_ode(
    in_chans: int = 2,
    *,
    known: Spec = "lotka_volterra_growth",
    learned: Sequence[str] = (),
    unknown: Literal["field", "nothing"] = "field",
    **options: Any,
) -> NeuralODE:
    r"""The solution of y' = known(y) + field(t, y): an equation of which a part is known.

    The data cannot distinguish what both parts can express, such as a learned constant and its term in the field.

    Args:
        in_chans: channels of the series.
        known: a system by its name, with constants where they differ: ``{name: lotka_volterra, beta: 0.8}``.
        learned: constants that are trained, from these values on.
        unknown: "field" learns the rest of the right-hand side; "nothing" trains the constants alone (system
            identification).
        **options: as for :func:`neural_ode`.

    Reference: Rackauckas et al., "Universal Differential Equations for Scientific Machine Learning", 2020,
    arXiv:2001.04385.
    """
    system = _system(known, in_chans, learned)
    if unknown == "nothing" and not learned:
        raise SchemenetError(
            f"unknown=nothing leaves nothing to train; expected constants to learn, learned: {list(constants(system))}"
        )
    return neural_ode(system, unknown == "field", in_chans=in_chans, **options)


def constants(system: System | None) -> dict[str, Tensor]:
    """The constants of a system by name; none where there is none."""
    return {} if system is None else dict(system.named_parameters())


def _system(known: Spec, channels: int, learned: Sequence[str]) -> System:
    system = SYSTEMS.build(known)
    if len(system.channels) != channels:
        fitting = [name for name in SYSTEMS if len(SYSTEMS.build(name).channels) == channels]
        raise SchemenetError(
            f"known={name_of(known)!r} has {len(system.channels)} channels ({', '.join(system.channels)}), the data "
            f"{channels}; systems of {channels}: {', '.join(fitting) or 'none'}"
        )
    known_constants = constants(system)
    if wrong := [name for name in learned if name not in known_constants]:
        raise SchemenetError(f"learned: {unknown_word(f'constant of {name_of(known)}', wrong[0], known_constants)}")
    for name, constant in known_constants.items():
        constant.requires_grad_(name in learned)
    return system
