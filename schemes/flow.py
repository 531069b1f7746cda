"""Flow: one resolution level of a network, integrated in time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from schemes.core.evaluation_counts import Counted, SolverCounts, counting
from schemes.core.node import Node
from schemes.core.purity import BUFFERS_MESSAGE, buffer_versions, check_same
from schemes.core.scheme import Scheme
from schemes.core.state import State
from schemes.errors import SchemenetError
from schemes.field_bank import FieldBank
from schemes.integration.compiled_loop import CompiledSolve, check_compilable, compiled_loop
from schemes.integration.grid import FlowGrid
from schemes.integration.loop import Carry, FieldOwner, Loop
from schemes.noise.base import Blocks, Noise
from schemes.registry import GRADIENTS, GRIDS, NOISES, SCHEMES, SHARINGS
from schemes.schema import Spec, objection
from schemes.sharing.base import Sharing


class Trajectory(NamedTuple):
    """The states of a flow at the start, and after each of its steps.

    Attributes:
        times: in [0, T], ascending.
        states: one for each of the times, each of the shape of the flow's input.
        solver_state: the scheme's own state at the end.
    """

    times: tuple[float, ...]
    states: tuple[Any, ...]
    solver_state: tuple[Any, ...] = ()


class FlowStep(NamedTuple):
    """One step of a flow, with its graph.

    Attributes:
        node: at which it begins.
        before: the state there, a tuple of components where the scheme is coupled.
        after: the state at its end, which is the next step's ``before``.
        solver_state: the scheme's own state at its end.
    """

    node: Node
    before: State
    after: State
    solver_state: tuple[Any, ...]


class Flow(FieldOwner):
    """Integrates u' = f(t, u) over [0, T]: scheme x field x sharing x grid x gradient, and noise on the steps.

    Args:
        make: makes the field that serves at a node: a module with ``forward(node, y)``, ``forward(t, y)`` or
            ``forward(y)`` (see ``schemes.field_bank``).
        steps: number of steps, where the grid does not set one.
        scheme: the method: a name, a mapping with ``name`` and parameters, a class or an object, as are ``grid``,
            ``gradient``, ``sharing`` and ``noise``.
        sharing: which nodes share weights (see ``schemes.sharing``); None: the scheme's default.
        grid: at which times the scheme steps.
        gradient: the gradient mode.
        statistics: which nodes share running statistics (see :class:`FieldBank`).
        past: how many older states ``forward`` gets.
        projection: applied to the state after each step. With a ReLU, the post-activation network
            u_{n+1} = P(u_n + h f(u_n)) is projected Euler on the cone u >= 0.
        noise: noise on the steps.
        blocks: place of the steps in the network (index of the first, number of all), for noise that grows with depth;
            None: they are all.

    Raises:
        SchemenetError: where the parts do not go together, with the reason and a remedy.
    """

    def __init__(
        self,
        make: Callable[[Node], nn.Module],
        steps: int,
        scheme: Spec = "forward_euler",
        sharing: Spec | None = None,
        grid: Spec = "uniform",
        gradient: Spec = "backprop",
        statistics: str = "per_node",
        past: int = 0,
        projection: nn.Module | None = None,
        noise: Spec = "none",
        blocks: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(make, nn.Module) or not callable(make):
            raise SchemenetError(
                f"make: expected a function that makes the field of a node, lambda node: ..., got {make}"
            )
        if (problem := objection(steps, "int")) is not None:
            raise SchemenetError(f"steps {problem}")
        self.scheme: Scheme = SCHEMES.build(scheme)
        self.gradient: Any = GRADIENTS.build(gradient)
        self.grid: FlowGrid = GRIDS.build(grid)
        self.nodes: tuple[Node, ...] = self.grid.nodes(steps)
        default = "shared" if self.adaptive else self.scheme.sharing
        self.sharing: Sharing = SHARINGS.build(default if sharing is None else sharing)
        self.sharing.allocate(self.grid.end_time(self.nodes), self.nodes)
        self.grid = self.grid.ending_steps(self.sharing.kinks, self.sharing.jumps)
        if projection is not None and self.scheme.components > 1:
            raise SchemenetError(
                f"a coupled state ({type(self.scheme).__name__}) has no post-activation projection; use activation=pre"
            )
        self.noise: Noise = NOISES.build(noise)
        self.blocks = Blocks(*(blocks or (0, len(self.nodes))))
        self.projection, self.statistics = projection, statistics
        reasons = (
            self.grid.unsupported_reason(self.scheme),
            self.noise.unsupported_reason(self.scheme),
            self.gradient.unsupported_reason(self),
        )
        if (reason := next(filter(None, reasons), None)) is not None:
            raise SchemenetError(reason)
        self.scheme.allocate(len(self.nodes), past)
        self.visits = self.grid.visits(self.scheme, self.nodes)
        self.bank = FieldBank(make, self.visits, self.sharing, statistics)
        if self.adaptive and (reason := self._needs_nodes()) is not None:
            raise SchemenetError(f"grid 'adaptive' finds its steps while it solves: {reason}")
        self.forward_counts, self.backward_counts = SolverCounts(), SolverCounts()
        self.compiled: str | None = None

    def forward(self, x: Any, past: tuple[Tensor, ...] = (), remember: bool = False) -> Any:
        """Integrate from 0 to T.

        Args:
            x: the state, of shape (batch, channels, ...). A coupled scheme splits the channels into equal components
                inside and joins them at the end; a tuple of components of any sizes stays one.
            past: older states, the latest first.
            remember: whether to return the scheme's solver state after the last step, too.

        Returns:
            The state at T like ``x``; with ``remember`` the pair of it and the solver state.
        """
        loop, carry = self._begin(x, past)
        compiling = torch.compiler.is_compiling()  # counting is no part of a graph
        constant = contextlib.nullcontext() if compiling or not self.adaptive else self._constant_field(carry[0])
        with constant, contextlib.nullcontext() if compiling else counting(loop.forward):
            y, solver_state = self.gradient(loop, carry).carry
        y = self._joined(x, y)
        return (y, solver_state) if remember else y

    def walk(self, x: Any, past: tuple[Tensor, ...] = ()) -> Iterator[FlowStep]:
        """Each step from 0 to T, differentiated by plain backprop; arguments as of :meth:`forward`."""
        loop, carry = self._begin(x, past)
        return walked(loop, carry)

    def trajectory(self, x: Any, past: tuple[Tensor, ...] = ()) -> Trajectory:
        """The states along the way from 0 to T, differentiated by plain backprop; arguments as of :meth:`forward`."""
        steps = list(self.walk(x, past))
        times = (0.0, *(float(step.node.t + step.node.h) for step in steps))
        states = (x, *(self._joined(x, step.after) for step in steps))
        return Trajectory(times, states, steps[-1].solver_state)

    def _begin(self, x: Any, past: tuple[Tensor, ...]) -> tuple[Loop, Carry]:
        """The loop of one pass, whose evaluations are counted, and its first carry."""
        y = self.split(x)
        first: Tensor = y[0] if isinstance(y, tuple) else y
        if self.adaptive and first.dtype in (torch.float16, torch.bfloat16):
            y = first = first.float()  # no error could be estimated in half precision; autocast lets f compute in it
        carry = (y, self.scheme.init_state(y, past))
        weights = self.noise.draw(self.visits, self.blocks, first, self.training)
        compiling = torch.compiler.is_compiling()  # counting is no part of a graph
        if not compiling:
            self.forward_counts, self.backward_counts = SolverCounts(), SolverCounts()
        loop = self.grid.flow_loop(
            self.scheme, self.bank if compiling else Counted(self.bank), self.nodes, self, self.training,
            projection=self.projection, weights=weights, forward=self.forward_counts, backward=self.backward_counts,
        )  # fmt: skip
        if self.compiled is not None and not first.is_meta:
            graphs = compiled_loop(self.scheme, self.bank, lambda t, y: self.bank(Node(0, t, 0.0), y), self.compiled)
            loop.use_compiled(CompiledSolve(graphs, tuple))
        return loop, carry

    def split(self, x: Any) -> Any:
        """The state of the solve: the components of x where the scheme is coupled and x one tensor, else x."""
        return self._components(x) if self._splits(x) else x

    def _splits(self, x: Any) -> bool:
        """Whether the channels of x are the components of a coupled scheme."""
        return self.scheme.components > 1 and isinstance(x, Tensor)

    def _joined(self, x: Any, y: Any) -> Any:
        """A state of the solve in the form of x."""
        return torch.cat(y, dim=1) if self._splits(x) else y

    def reused(self, node: Node) -> nn.Module | None:
        return self.bank.reused(node)

    @contextlib.contextmanager
    def _constant_field(self, y: State) -> Iterator[None]:
        """Raise where the solve has changed buffers of f that its value depends on."""
        before = {name: buffer.clone() for name, buffer in self.bank.named_buffers()}
        versions = buffer_versions(self.bank)
        yield
        if versions != buffer_versions(self.bank):
            node = Node(0, 0.0, 0.0, trial=True)
            with torch.no_grad():
                again = torch.func.functional_call(self.bank, before, (node, y))
                check_same(again, self.bank(node, y), BUFFERS_MESSAGE)

    def _components(self, x: Tensor) -> tuple[Tensor, ...]:
        parts = self.scheme.components
        if x.shape[1] % parts:
            raise SchemenetError(
                f"scheme {type(self.scheme).__name__} splits the channels into {parts} equal components, got "
                f"{x.shape[1]} channels; use a width that {parts} divides"
            )
        return x.chunk(parts, dim=1)

    def undone(self, y: State) -> Iterator[State]:
        """The states before each step, from the last step to the first, of a flow that ends in y.

        For schemes that can be undone and remember nothing. Differentiated by plain backprop.
        """
        if not self.scheme.reversible or self.scheme.history or self.projection is not None:
            raise SchemenetError(
                f"scheme {type(self.scheme).__name__} cannot be undone from the end state alone; use symplectic_euler "
                "or verlet"
            )
        solver_state = self.scheme.init_state(y)
        for node in reversed(self.nodes):
            y, solver_state = self.scheme.inverse(self.bank, node, y, solver_state)
            yield y

    def compile_steps(self, backend: str = "inductor") -> None:
        """Solve by graphs of torch.compile's from now on, as ``solve(compile=True)`` does."""
        check_compilable(self)
        self.compiled = backend

    @property
    def adaptive(self) -> bool:
        """Whether the steps are found while solving: then no ``nodes`` are known."""
        return not self.nodes

    @property
    def random_steps(self) -> bool:
        """Whether steps are drawn at random in training, by noise or by the scheme."""
        return bool(self.noise.random or self.scheme.random_steps)

    @property
    def time(self) -> float:
        """T, the end of the time that is integrated over."""
        return self.grid.end_time(self.nodes)

    def _needs_nodes(self) -> str | None:
        """Why this flow needs known steps; None where it does not."""
        if self.sharing.of_steps:
            return (
                f"sharing={self.sharing.name} gives weights to steps that are not known; use sharing=shared, or "
                "sharing=basis"
            )
        if any(isinstance(module, _BatchNorm) for module in self.bank.modules()):
            return "batch norm keeps statistics for each evaluation, which are not known; use norm=group"
        if any(isinstance(module, _DropoutNd) and module.p for module in self.bank.modules()):
            return "dropout makes f another function at each evaluation; leave it to the head, or use grid=uniform"
        if self.projection is not None:
            return "a post-activation projection after each step is no ODE; use activation=pre"
        if self.noise.weighs_steps:
            return f"noise {type(self.noise).__name__} belongs to steps; use noise=none"
        return None

    def extra_repr(self) -> str:
        steps, h = self.grid.described(self.nodes)
        return f"steps={steps}, h={h}, sharing={self.sharing.described}"


def walked(loop: Loop, carry: Carry) -> Iterator[FlowStep]:
    """The steps of a flow's loop from a carry.

    A component of a coupled state is computed from the other one's new value. Each becomes a variable of its own, so
    that a gradient with respect to one is taken with the other one constant.
    """
    if loop.scheme.components > 1:
        loop.projection = _separated  # such a flow has none
    steps = loop.walk(carry, loop.f)
    while True:
        with counting(loop.forward):  # the step's evaluations, and none of the caller's between two steps
            taken = next(steps, None)
        if taken is None:
            return
        node, before, result = taken
        yield FlowStep(node, before[0], *result.carry)


def _separated(y: State) -> State:
    return tuple(component[...] for component in y)
