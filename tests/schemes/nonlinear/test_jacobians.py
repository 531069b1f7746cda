"""Jacobians of small systems as matrices, of others by products."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from schemes.core.node import Node
from schemes.ivp.solve import solve
from schemes.nonlinear.jacobians import MOST, Jacobian, JacobianMatrix, ProjectedJacobian
from schemes.nonlinear.jacobians import jacobian as jacobian_at
from schemes.nonlinear.linearised import Linearised

NODE = Node(0, 0.0, 0.1)
A = 0.3


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def separate(node: Node, y: Tensor) -> Tensor:
    return torch.sin(y @ drawn(y.shape[-1], y.shape[-1], dtype=y.dtype)) - y**3


def normalised(node: Node, y: Tensor) -> Tensor:
    return separate(node, nn.functional.batch_norm(y, None, None, training=True))


def differences(node: Node, y: Tensor) -> Tensor:
    """A diffusion along the first dimension, which looks like one of samples; constant and linear states stay."""
    return nn.functional.pad(y[2:] - 2 * y[1:-1] + y[:-2], (0, 0, 1, 1))


def of(f, y: Tensor) -> Jacobian:
    return jacobian_at(Linearised(f, NODE, y), y, 40)


def check_solution(f, y: Tensor, jacobian: Jacobian, tolerance: float) -> None:
    whole = torch.autograd.functional.jacobian(lambda y: f(NODE, y), y).reshape(y.numel(), y.numel())
    r = drawn(*y.shape, dtype=y.dtype)
    expected = torch.linalg.solve(torch.eye(y.numel(), dtype=y.dtype) - A * whole, r.flatten()).view_as(y)
    x, left = jacobian.approximate(r, A, 0.0)
    assert (x - expected).norm() <= tolerance * expected.norm()
    assert left.norm() <= tolerance * r.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("shape", [(100, 3), (2, MOST), (MOST,), (1, MOST), (30, 2, 2, 3)])
def test_small_systems_are_solved_by_matrices_of_their_samples(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    y = drawn(*shape, dtype=dtype)
    assert isinstance(of(separate, y), JacobianMatrix)
    check_solution(separate, y, of(separate, y), tolerance)


@pytest.mark.parametrize("f", [normalised, differences])
def test_samples_that_depend_on_each_other_are_one_system(f) -> None:
    small, large = drawn(10, 2), drawn(100, 2)
    check_solution(f, small, of(f, small), 1e-12)
    assert isinstance(of(f, large), ProjectedJacobian)
    check_solution(f, large, of(f, large), 0.02)


def test_states_of_many_entries_have_no_matrix() -> None:
    assert isinstance(of(separate, drawn(MOST + 1)), ProjectedJacobian)
    assert isinstance(of(separate, drawn(2, MOST + 1)), ProjectedJacobian)


def test_an_f_without_y_and_numbers_that_are_none() -> None:
    y = drawn(5, 2)
    solution, _ = of(lambda node, y: torch.ones_like(y), y).approximate(y, A, 0.0)
    assert torch.equal(solution, y)
    solution, _ = of(lambda node, y: y * math.nan, y).approximate(y, A, 0.0)
    assert not solution.isfinite().any()


def test_half_precision_is_factorised_in_single() -> None:
    y = drawn(4, 2).bfloat16()
    solution, _ = of(lambda node, y: -(y**3), y).approximate(torch.ones_like(y), A, 0.0)
    assert solution.dtype == torch.bfloat16
    torch.testing.assert_close(solution, 1 / (1 + 3 * A * y**2), rtol=0.02, atol=0.0)


def test_a_batch_of_stiff_systems_takes_a_matrix_a_step_and_agrees_with_each_by_itself() -> None:
    def oscillators(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack((v, 100 * (1 - x * x) * v - x), -1)

    y0 = torch.tensor([2.0, 0.0]) + 0.1 * drawn(8, 2).abs()
    grid = {"name": "adaptive", "rtol": 1e-6, "atol": 1e-6}
    together = solve(oscillators, y0.double(), [0.0, 20.0], scheme="kvaerno5", grid=grid)
    counts = together.statistics.forward
    attempts = counts.accepted + counts.rejected
    assert 3 * attempts <= counts.jacobian_products <= 3 * 1.5 * attempts
    for i in range(2):
        alone = solve(oscillators, y0[i].double(), [0.0, 20.0], scheme="kvaerno5", grid=grid)
        torch.testing.assert_close(together.values[-1, i], alone.values[-1], rtol=1e-4, atol=1e-5)
