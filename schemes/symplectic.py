"""Splitting methods for coupled systems x' = f_0(y), y' = f_1(x); reversible, whatever f_0 and f_1 are."""

from __future__ import annotations

from schemes.base import Scheme
from schemes.node import Node
from schemes.registry import SCHEMES
from schemes.state import RightHandSide, State, axpy


@SCHEMES.register("symplectic_euler", "reversible")
class SymplecticEuler(Scheme):
    r"""Symplectic (semi-implicit) Euler; the coupling of RevNet.

        x_{n+1} = x_n + h f_0(y_n),      y_{n+1} = y_n + h f_1(x_{n+1})

    The papers call the network forward Euler of a coupled system; the second update uses the new x, which makes the
    map symplectic where the system is Hamiltonian (on the oscillator forward Euler spirals out, this stays bounded).

    Reference: Gomez, Ren, Urtasun, Grosse, "The Reversible Residual Network: Backpropagation Without Storing
    Activations", NeurIPS 2017, arXiv:1707.04585.
    """

    order = 1
    stages = 2
    components = 2
    reversible = True
    problem = "separable"

    def step(
        self, f: RightHandSide, node: Node, y: State, memory: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        first, second = y
        first = axpy(first, f(node.at(0, 0.0, 0), second), node.h)
        second = axpy(second, f(node.at(1, 1.0, 1), first), node.h)
        return (first, second), memory

    def inverse(
        self, f: RightHandSide, node: Node, y: State, memory: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        first, second = y
        second = axpy(second, f(node.at(1, 1.0, 1), first), -node.h)
        first = axpy(first, f(node.at(0, 0.0, 0), second), -node.h)
        return (first, second), memory


@SCHEMES.register("verlet")
class Verlet(Scheme):
    r"""Velocity Verlet (kick, drift, kick).

        w = y_n + h/2 f_1(x_n),    x_{n+1} = x_n + h f_0(w),    y_{n+1} = w + h/2 f_1(x_{n+1})

    Reference: Verlet, "Computer Experiments on Classical Fluids", Phys. Rev. 159, 1967.
    """

    order = 2
    stages = 3
    components = 2
    reversible = True
    problem = "separable"

    def step(
        self, f: RightHandSide, node: Node, y: State, memory: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        first, second = y
        second = axpy(second, f(node.at(0, 0.0, 1), first), node.h / 2)
        first = axpy(first, f(node.at(1, 0.5, 0), second), node.h)
        second = axpy(second, f(node.at(2, 1.0, 1), first), node.h / 2)
        return (first, second), memory

    def inverse(
        self, f: RightHandSide, node: Node, y: State, memory: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        first, second = y
        second = axpy(second, f(node.at(2, 1.0, 1), first), -node.h / 2)
        first = axpy(first, f(node.at(1, 0.5, 0), second), -node.h)
        second = axpy(second, f(node.at(0, 0.0, 1), first), -node.h / 2)
        return (first, second), memory
