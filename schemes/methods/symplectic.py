"""Splitting methods for coupled systems x' = f_0(y), y' = f_1(x); reversible, whatever f_0 and f_1 are."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, axpy
from schemes.registry import SCHEMES


class Splitting(Scheme, abstract=True):
    """Kicks in turn: each moves one component by w h f(t + c h, the other one), and is undone by its negative.

    ``kicks`` lists (component, c, w) in the order of a step.
    """

    kicks: ClassVar[tuple[tuple[int, float, float], ...]]
    components = 2
    reversible = True
    noise_reaches_arguments = True  # the second part is moved by f at the first one's new value
    problem = "separable"

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract:
            cls.stages = len(cls.kicks)
        super().__init_subclass__(abstract)

    @property
    def invertible_parts(self) -> tuple[Kick, ...]:
        return tuple(Kick(stage, *kick) for stage, kick in enumerate(self.kicks))

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        for kick in self.invertible_parts:
            y, solver_state = kick.step(f, node, y, solver_state)
        return y, solver_state

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        for kick in reversed(self.invertible_parts):
            y, solver_state = kick.inverse(f, node, y, solver_state)
        return y, solver_state


class Kick(NamedTuple):
    """One component moved by w h f(t + c h, the other one)."""

    stage: int
    component: int
    c: float
    weight: float

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        return self._moved(f, node, y, self.weight), solver_state

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        return self._moved(f, node, y, -self.weight), solver_state

    def _moved(self, f: VectorField, node: Node, y: State, weight: float) -> State:
        component = self.component
        moved = axpy(y[component], f(node.at(self.stage, self.c, component), y[1 - component]), weight * node.h)
        return (moved, y[1]) if component == 0 else (y[0], moved)


@SCHEMES.register("symplectic_euler", "reversible")
class SymplecticEuler(Splitting):
    r"""Symplectic (semi-implicit) Euler; the coupling of RevNet.

        x_{n+1} = x_n + h f_0(y_n),      y_{n+1} = y_n + h f_1(x_{n+1})

    The papers call the network forward Euler of a coupled system; the second update uses the new x, which makes the
    map symplectic where the system is Hamiltonian (on the oscillator forward Euler spirals out, this stays bounded).

    Reference: Gomez, Ren, Urtasun, Grosse, "The Reversible Residual Network: Backpropagation Without Storing
    Activations", NeurIPS 2017, arXiv:1707.04585.
    """

    order = 1
    kicks = ((0, 0.0, 1.0), (1, 1.0, 1.0))


@SCHEMES.register("verlet")
class Verlet(Splitting):
    r"""Velocity Verlet (kick, drift, kick).

        w = y_n + h/2 f_1(x_n),    x_{n+1} = x_n + h f_0(w),    y_{n+1} = w + h/2 f_1(x_{n+1})

    Reference: Verlet, "Computer Experiments on Classical Fluids", Phys. Rev. 159, 1967.
    """

    order = 2
    kicks = ((1, 0.0, 0.5), (0, 0.5, 1.0), (1, 1.0, 0.5))
