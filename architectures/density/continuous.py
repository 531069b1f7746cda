"""Continuous normalizing flows: densities by an ordinary differential equation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from architectures.arguments import build_field, field_facts, name_of, require, scaled
from architectures.density.base import DensityModel, standard_normal
from architectures.model import layout_along
from architectures.registry import FIELDS
from schemes.core.node import Node
from schemes.errors import NonFiniteError, Problems, SchemenetError
from schemes.ivp.trajectory_flow import TrajectoryFlow
from schemes.schema import Spec

EXACT_UP_TO = 64
"""Dimensions up to which evaluation takes the trace itself, one product for each of them."""

Trace = Literal["exact", "gaussian", "rademacher"]


@runtime_checkable
class ExactTrace(Protocol):
    """A field that knows tr df/dy in closed form."""

    def with_trace(self, node: Node, y: Tensor) -> tuple[Tensor, Tensor]:
        """f and tr df/dy, (batch, dims) and (batch,)."""
        ...


class Dynamics(nn.Module):
    r"""The rates of a point x, and of the integrals along its path.

        dx/dt = f(t, x),   dl/dt = tr df/dx,   dk/dt = |f|^2,   dj/dt = |df/dx|_F^2

    For a tensor the first alone, for a tuple as many as it has parts. With noise e of the shape of x, E[e e^T] = I, the
    trace is estimated by e^T (df/dx) e and the norm by |e^T df/dx|^2, from one product; without it both are exact: in
    closed form where the field has one (:class:`ExactTrace`), else by one product for each dimension.
    """

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field: Any = field
        self._exact_trace = isinstance(field, ExactTrace)

    def forward(self, t: Any, state: Any, *noise: Tensor) -> Any:
        node = Node(0, t, 0.0)
        if isinstance(state, Tensor):
            return self.field(node, state)
        if len(state) == 2 and not noise and self._exact_trace:
            return self.field.with_trace(node, state[0])
        velocity, trace, squares = self._by_products(node, state[0], noise)
        return (velocity, trace, velocity.square().sum(1), squares)[: len(state)]

    def _by_products(self, node: Node, x: Tensor, noise: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        tracked = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        with torch.enable_grad():
            x = x if x.requires_grad and tracked else x.detach().requires_grad_()
            velocity = self.field(node, x)
            vectors = noise or torch.eye(x.shape[1], dtype=x.dtype, device=x.device).unsqueeze(1).expand(-1, *x.shape)
            trace, squares = x.new_zeros(len(x)), x.new_zeros(len(x))
            for vector in vectors:
                (product,) = torch.autograd.grad(velocity, x, vector, create_graph=tracked, retain_graph=True)
                trace, squares = trace + (product * vector).sum(1), squares + product.square().sum(1)
        return (velocity, trace, squares) if tracked else (velocity.detach(), trace.detach(), squares.detach())


class Transport(nn.Module):
    """The flow of a field from time 0 to T, and back.

    Args:
        field: f, a field on vectors.
        time: T, at the start of training.
        train_time: whether T = exp(``log_time``) is trained.
        **axes: scheme, grid and gradient of the solve.
    """

    def __init__(self, field: nn.Module, time: float, train_time: bool, **axes: Spec) -> None:
        super().__init__()
        self.path = TrajectoryFlow(Dynamics(field), **axes)
        self.log_time = nn.Parameter(torch.tensor(math.log(time)), requires_grad=train_time)

    def times(self, stops: int = 2) -> Tensor:
        """``stops`` equidistant times of [0, T], which depend on T differentiably.

        Raises:
            NonFiniteError: where training has made T infinite or NaN.
        """
        shares = torch.linspace(0, 1, stops, dtype=self.log_time.dtype, device=self.log_time.device)
        end = self.log_time.exp()
        if not end.is_meta and not end.isfinite():
            raise NonFiniteError(f"the end time of a flow, which is trained, has become {end.item()}")
        return shares * end

    def forward(self, x: Tensor, times: Tensor, noise: Sequence[Tensor] = (), costs: int = 0) -> tuple[Tensor, ...]:
        """The points at the last time, and the integrals along their paths.

        Args:
            x: the points at the first time, (batch, dims).
            times: from the first to the last, (stops,).
            noise: for an estimated trace, one vector for each point; none for the exact one.
            costs: number of further integrals after that of the trace, see :class:`Dynamics`.

        Returns:
            The points, (batch, dims), and 1 + ``costs`` integrals, (batch,) each.
        """
        if torch.is_inference_mode_enabled():  # in which no product with a Jacobian can be computed
            with torch.inference_mode(False), torch.no_grad():
                return self(x.clone(), times.clone(), [part.clone() for part in noise], costs)
        nothing = x.new_zeros(len(x))
        values = self.path((x, *[nothing] * (1 + costs)), times, *noise).values
        return tuple(value[-1] for value in values)


class ContinuousDensity(DensityModel):
    r"""A density by the flow of dx/dt = f(t, x) from noise at t = 0 to data at t = T.

        log p(x(T)) = log N(x(0); 0, I) - int_0^T tr df/dx dt

    Several flows, each with its own field, follow one another. Noise is drawn once for a solve.

    Args:
        dims: of the data.
        transports: the flows, from noise to data.
        trace: how training computes the trace: "exact", or estimated by "gaussian" or "rademacher" noise. Evaluation
            is exact up to 64 dimensions.
        kinetic: weight of int |f|^2 dt in the training loss.
        jacobian: weight of int |df/dx|_F^2 dt in it.
        draws: of noise over which evaluation averages beyond 64 dimensions, with a standard error.
    """

    def __init__(
        self, dims: int, transports: Sequence[Transport], trace: str, kinetic: float, jacobian: float, draws: int
    ) -> None:
        super().__init__(dims)
        self.transports: Any = nn.ModuleList(transports)
        self.trace, self.kinetic, self.jacobian, self.draws = trace, kinetic, jacobian, draws

    @property
    def estimated(self) -> bool:  # type: ignore[override]  # depends on the dimensions
        return self.trace != "exact" and self.dims > EXACT_UP_TO

    def noise(self, x: Tensor) -> tuple[Tensor, ...]:
        """One vector for each point; none where the trace is exact."""
        if self.trace == "exact" or not (self.training or self.estimated):
            return ()
        if self.trace == "gaussian":
            return (torch.randn_like(x),)
        return (torch.randint(0, 2, x.shape, device=x.device).to(x.dtype).mul_(2).sub_(1),)

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det, *_ = self._to_noise(x)
        return z, log_det

    def from_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det, *_ = self._from_noise(z)
        return x, log_det

    def _to_noise(self, x: Tensor, costs: int = 0) -> list[Tensor]:
        return self._carried(
            x, [(transport, transport.times().flip(0)) for transport in reversed(self.transports)], costs
        )

    def _from_noise(self, z: Tensor, costs: int = 0) -> list[Tensor]:
        return self._carried(z, [(transport, transport.times()) for transport in self.transports], costs)

    def _carried(self, x: Tensor, route: Sequence[tuple[Transport, Tensor]], costs: int) -> list[Tensor]:
        """The points after these transports, and the integrals along all of them."""
        totals: list[Any] = [0.0] * (1 + costs)
        for transport, times in route:
            x, *integrals = transport(x, times, self.noise(x), costs)
            totals = [total + integral for total, integral in zip(totals, integrals, strict=True)]
        return [x, *totals]

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        x = torch.randn(n, self.dims, generator=generator, **self.like())
        for transport in self.transports:
            x = transport.path(x, transport.times()).values[-1]  # without the trace
        return x

    @torch.no_grad()
    def along(self, z: Tensor, stops: int) -> list[tuple[str, Tensor]]:
        states = [("noise", z)]
        for i, transport in enumerate(self.transports, 1):
            times = transport.times(stops)
            values = transport.path(states[-1][1], times).values
            flow = f"flow {i}, " if len(self.transports) > 1 else ""
            labels = [f"{flow}t = {float(t):.2f}" for t in times[1:]]
            if transport.log_time.requires_grad:
                labels[-1] = f"{flow}T = {float(times[-1]):.2f}, trained"
            states += list(zip(labels, values[1:], strict=True))
        return states

    def likelihood(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.training or not self.estimated:
            return super().likelihood(x)
        estimates = torch.stack([super(ContinuousDensity, self).likelihood(x)[0] for _ in range(self.draws)])
        return estimates.mean(0), estimates.std(0) / math.sqrt(self.draws)

    @property
    def regularised(self) -> bool:
        """Whether the loss has regularisers: in training, where a weight is not 0."""
        return self.training and bool(self.kinetic or self.jacobian)

    def loss(self, batch: Tensor) -> Tensor:
        """The mean negative log density, and in training the regularisers."""
        if not self.regularised:
            return super().loss(batch)
        z, log_det, energy, squares = self._to_noise(batch, costs=2)  # backwards in time: the integrals are negative
        return -(standard_normal(z) + log_det + self.kinetic * energy + self.jacobian * squares).mean()

    def matching_loss(self, energy: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """E[log q(x) + U(x)], and in training the regularisers."""
        if not self.regularised:
            return super().matching_loss(energy, z)
        x, log_det, speed, squares = self._from_noise(z, costs=2)
        divergence = standard_normal(z) - log_det + energy(x)
        return (divergence + self.kinetic * speed + self.jacobian * squares).mean()


def continuous_density(
    dims: int, *, flows: int, units: int, width: float, inner: float, field: Spec, time: float, train_time: bool,
    trace: Trace, kinetic: float = 0.0, jacobian: float = 0.0, draws: int = 2, **axes: Spec,
) -> ContinuousDensity:  # fmt: skip
    """A density of several flows, each with its field.

    Args:
        dims: of the data.
        flows: how many.
        units: inner width of each field.
        width: factor of ``units``.
        inner: factor of the other widths of a field.
        field: f, a field on vectors.
        time: T, at the start of training.
        train_time: whether each T is trained.
        trace: see :class:`ContinuousDensity`, as ``kinetic``, ``jacobian`` and ``draws``.
        kinetic: weight in the training loss.
        jacobian: weight in the training loss.
        draws: of noise in evaluation.
        **axes: scheme, grid and gradient of the flows.

    Raises:
        SchemenetError: for sizes that are not positive, a field that takes images, or a scheme that is no
            method for y' = f.
    """
    require(flows=flows, units=units, width=width, inner=inner, time=time)
    problems = Problems()
    weights = {"kinetic": kinetic, "jacobian": jacobian}
    problems.add(*(f"{key} expected to be at least 0, got {value}" for key, value in weights.items() if not value >= 0))
    if draws < 2:
        problems.add(f"draws expected to be at least 2, without which there is no standard error, got {draws}")
    problems.raise_if_any()
    if field_facts(field).state == "image":
        vectors = [name for name in FIELDS if FIELDS.entry(name).facts.get("state") == "vector"]
        raise SchemenetError(f"has vectors for states; fields that take them: {', '.join(vectors)}; got {field!r}")
    (hidden,) = scaled([units], width)
    fields = [build_field(field, channels=dims, out=dims, inner=hidden, fine=inner) for _ in range(flows)]
    transports = [Transport(f, time, train_time, **axes) for f in fields]
    if (method := transports[0].path.scheme).order is None or method.problem != "general":
        raise SchemenetError(
            f"scheme {name_of(axes['scheme'])!r} is no method for y' = f, and what it makes of a trace is no "
            "log-determinant; use one that is, such as rk4 or dopri5"
        )
    network = ContinuousDensity(dims, transports, trace, kinetic, jacobian, draws)
    layout = layout_along(
        transports[0].path, widths=[dims] * flows, inner=[hidden], stem="none", field=name_of(field),
        scheme=name_of(axes["scheme"]),
    )  # fmt: skip
    network.layout = {**layout, "steps": layout["steps"] * flows, "fine": inner}
    return network
