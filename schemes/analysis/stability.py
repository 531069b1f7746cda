"""Stability: the amplification of a step anywhere in the complex plane, and intervals on its axes.

On u' = lambda u with z = h lambda, one step of a scheme multiplies (state, memory) by a matrix M(z) of polynomials,
found here by running the scheme itself on polynomials in z; an implicit one-step method multiplies by a rational R(z).
Solutions decay where the spectral radius of M(z), or |R(z)|, is below one: the stability region. Its intervals on the
axes are computed algebraically. Where an eigenvalue crosses the unit circle, the characteristic polynomial p and its
reciprocal p* have a common root, so the crossings are among the real roots of their resultant (and, where eigenvalues
stay on the circle and collide, of the discriminant). Between two neighbouring candidates nothing changes, and one point
decides. A tolerant scan of |R| gives Heun an imaginary interval that it does not have: |R(iy)|^2 = 1 + y^4 / 4.

Reference: Hairer, Wanner, "Solving Ordinary Differential Equations II", 2nd ed., Springer 1996, chapters IV.2, V.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, flatten, unflatten
from schemes.errors import SchemenetError
from schemes.integration.uniform_grid import UniformGrid

DEGREE = 40
"""Coefficients kept of polynomials in z; a step's degree is its number of stages."""
FAR = 1e3
"""An interval that reaches this far is called infinite."""
TOLERANCE = 1e-9

Poly = np.ndarray  # coefficients of a polynomial in one real variable, lowest power first


class Intervals(NamedTuple):
    """Lengths r of the stability intervals [-r, 0] on the real and [-ir, ir] on the imaginary axis.

    None where the scheme has no stability function: own weights at each stage, coefficients that are learnable or
    depend on the number of steps, or (real axis) a coupled system, whose interval on the imaginary axis is that of
    the oscillator x' = omega y, y' = -omega x.
    """

    real: float | None
    imaginary: float | None


def refusal(scheme: Scheme) -> str | None:
    """Why a scheme as configured has no stability function; None where it has one."""
    if scheme.sharing == "per_stage":
        return "own weights at each stage, so f is no single function"
    if _learnable(scheme):
        return "learnable coefficients, which differ from step to step"
    if scheme.stability_function() is None:
        few, many = (step_matrix(scheme, steps) for steps in (_started(scheme), 2 * _started(scheme)))
        if not np.array_equal(few, many):
            return "coefficients that depend on the number of steps"
    return None


def amplification(scheme: Scheme, z: np.ndarray) -> np.ndarray:
    """The factor by which a step can multiply solutions of u' = lambda u, at each z = h lambda.

    The spectral radius of M(z), or |R(z)|, infinite at the poles of R. For a coupled scheme the equation is the
    oscillator x' = omega y, y' = -omega x, whose eigenvalues are +-i omega, and z is h omega. Complex array to a real
    one of the same shape.
    """
    if (reason := refusal(scheme)) is not None:
        raise SchemenetError(f"scheme {type(scheme).__name__} has no stability function: {reason}")
    if (rational := scheme.stability_function()) is not None:
        numerator, denominator = (np.polynomial.polynomial.polyval(z, poly) for poly in rational)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(np.abs(numerator / denominator), nan=np.inf, posinf=np.inf)
    matrix = step_matrix(scheme, _started(scheme))
    degree = int(max(np.nonzero(matrix)[-1], default=0))
    entries = np.polynomial.polynomial.polyval(z, np.moveaxis(matrix, -1, 0)[: degree + 1])
    matrices = np.moveaxis(entries, (0, 1), (-2, -1))
    return np.abs(np.linalg.eigvals(matrices)).max(axis=-1)


def stability_intervals(scheme: Scheme) -> Intervals:
    """The intervals of a scheme as configured."""
    if refusal(scheme) is not None:
        return Intervals(None, None)
    if (rational := scheme.stability_function()) is not None:
        return Intervals(_rational_interval(*rational, -1.0), _rational_interval(*rational, 1j))
    matrix = step_matrix(scheme, _started(scheme))
    # In this unit the coefficients of many stages, about 1/k! at z^k, are comparable: none is lost as rounding.
    unit = max(1.0, scheme.stages / 2)
    if scheme.components > 1:
        return Intervals(None, unit * _interval(_substitute(matrix, unit)))
    return Intervals(*(unit * _interval(_substitute(matrix, unit * axis)) for axis in (-1.0, 1j)))


def _started(scheme: Scheme) -> int:
    """A number of steps by the last of which the memory is full."""
    return scheme.history + 2


def _learnable(scheme: Scheme) -> bool:
    scheme.allocate(_started(scheme))
    return any(True for _ in scheme.parameters())


def step_matrix(scheme: Scheme, steps: int) -> np.ndarray:
    """M of the last of ``steps`` steps, an array (size, size, DEGREE) of coefficients of polynomials in z (h = 1).

    The vector it acts on is (state, memory), which the scheme must have filled by then.
    """

    def f(node: Node, y: Tensor) -> Tensor:
        sign = -1.0 if scheme.components > 1 and node.component == 1 else 1.0
        return sign * torch.roll(y, 1, dims=-1)

    scheme.allocate(steps)
    scheme.eval()
    zero = torch.zeros(DEGREE, dtype=torch.float64)
    y: State = zero if scheme.components == 1 else (zero,) * scheme.components
    solver_state = scheme.init_state(y)
    nodes = UniformGrid().nodes(steps)
    with torch.no_grad():
        for node in nodes[:-1]:
            y, solver_state = scheme.step(f, node, y, solver_state)
        leaves, shape = flatten((y, solver_state))
        size = len(leaves)
        columns = []
        for j in range(size):
            basis = [torch.zeros_like(zero) for _ in range(size)]
            basis[j][0] = 1.0
            columns.append(flatten(scheme.step(f, nodes[-1], *unflatten(basis, shape)))[0])
    return np.array([[columns[j][i].numpy() for j in range(size)] for i in range(size)])


def _substitute(matrix: np.ndarray, direction: complex) -> list[list[Poly]]:
    """Entries as polynomials in x, for z = direction * x."""
    factors = direction ** np.arange(matrix.shape[-1])
    return [[_trim(entry * factors) for entry in row] for row in matrix]


def _rational_interval(numerator: Poly, denominator: Poly, direction: complex) -> float:
    """The largest r such that |R(direction x)| <= 1 for 0 <= x <= r."""
    over, under = (_trim(poly * direction ** np.arange(len(poly))) for poly in (numerator, denominator))

    def bounded(x: float) -> bool:
        top, bottom = (abs(np.polynomial.polynomial.polyval(x, poly)) for poly in (over, under))
        return bool(top <= (1 + TOLERANCE) * bottom)

    # det(zeta - R) = 0 times the denominator
    return _reach([-over, under], bounded)


def _interval(matrix: list[list[Poly]]) -> float:
    """The largest r such that every power of M(x) stays bounded for 0 <= x <= r."""
    return _reach(_characteristic(matrix), lambda x: _bounded(matrix, x))


def _reach(p: list[Poly], bounded: Callable[[float], bool]) -> float:
    """The largest r such that the roots of p, a polynomial in zeta for each x, stay bounded for 0 <= x <= r."""
    # p*(zeta) = zeta^n conj(p(1 / conj zeta)): coefficients conjugated and in reverse order.
    resultant = _resultant(p, [np.conj(c) for c in reversed(p)])
    derivative = [k * c for k, c in enumerate(p)][1:]
    discriminant = _resultant(p, derivative) if len(p) > 2 else np.zeros(1)
    candidates = sorted({*_positive_roots(resultant), *_positive_roots(discriminant)})
    reached = 0.0
    for end in [*candidates, FAR]:
        if not bounded((reached + min(end, reached + 2.0)) / 2):
            return reached
        reached = end
    return float("inf")


def _bounded(matrix: list[list[Poly]], x: float) -> bool:
    values = np.array([[np.polynomial.polynomial.polyval(x, entry) for entry in row] for row in matrix])
    return bool(np.abs(np.linalg.eigvals(values)).max() <= 1 + TOLERANCE)


def _characteristic(matrix: list[list[Poly]]) -> list[Poly]:
    """Coefficients (polynomials in x) of det(zeta I - M), lowest power of zeta first, by Faddeev and LeVerrier."""
    size = len(matrix)
    one, zero = np.array([1.0 + 0j]), np.array([0j])
    work = [[zero] * size for _ in range(size)]
    coefficients = [one]
    for k in range(1, size + 1):
        shifted = [
            [_plus(work[i][j], coefficients[-1]) if i == j else work[i][j] for j in range(size)] for i in range(size)
        ]
        work = [
            [_sum(_times(matrix[i][m], shifted[m][j]) for m in range(size)) for j in range(size)] for i in range(size)
        ]
        coefficients.append(_sum(work[i][i] for i in range(size)) * (-1 / k))
    return coefficients[::-1]


def _resultant(p: list[Poly], q: list[Poly]) -> Poly:
    """The determinant of the Sylvester matrix of two polynomials in zeta whose coefficients are polynomials in x."""
    m, n = len(p) - 1, len(q) - 1
    zero = np.array([0j])
    rows = [[zero] * i + list(reversed(p)) + [zero] * (n - 1 - i) for i in range(n)]
    rows += [[zero] * i + list(reversed(q)) + [zero] * (m - 1 - i) for i in range(m)]
    size = m + n
    minors = {0: np.array([1.0 + 0j])}  # by set of used columns, row after row
    for row in rows:
        following: dict[int, Poly] = {}
        for used, value in minors.items():
            for column in range(size):
                if used >> column & 1 or not np.any(row[column]):
                    continue
                sign = -1 if bin(used >> (column + 1)).count("1") % 2 else 1
                term = sign * _times(value, row[column])
                key = used | 1 << column
                following[key] = _plus(following[key], term) if key in following else term
        minors = following
    return minors.get((1 << size) - 1, zero)


def _positive_roots(polynomial: Poly) -> list[float]:
    """Positive real roots; a root at zero of any multiplicity is taken out first."""
    coefficients = _trim(polynomial)
    while len(coefficients) > 1 and coefficients[0] == 0:
        coefficients = coefficients[1:]
    if len(coefficients) < 2:
        return []
    roots = np.roots(coefficients[::-1])
    return [float(r.real) for r in roots if abs(r.imag) < 1e-5 * max(1, abs(r)) and 1e-6 < r.real < FAR]


def _trim(polynomial: Poly) -> Poly:
    """Rounding errors set to zero, vanishing highest powers dropped."""
    sizes = np.abs(polynomial)
    cleaned = np.where(sizes < 1e-12 * max(1.0, sizes.max()), 0, polynomial)
    return cleaned[: max(np.flatnonzero(cleaned), default=0) + 1].astype(complex)


def _times(p: Poly, q: Poly) -> Poly:
    return np.convolve(p, q)


def _plus(p: Poly, q: Poly) -> Poly:
    longer, shorter = (p, q) if len(p) >= len(q) else (q, p)
    result = longer.astype(complex)
    result[: len(shorter)] += shorter
    return result


def _sum(polynomials: Iterable[Poly]) -> Poly:
    total = np.array([0j])
    for polynomial in polynomials:
        total = _plus(total, polynomial)
    return total
