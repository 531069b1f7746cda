"""The same program with torchdiffeq's calls and with ours: evaluations of f, and errors of values and gradients.

    python benchmarks/torchdiffeq_switch.py

Counts and errors are exact and the same on every machine (to rounding). The problem: a field of 2-8-2 neurons that
knows the time, three output times inside and at the end of [0, 2], float64; errors are relative, against tolerance
1e-12. ``docs/torchdiffeq.md`` quotes the table. torchdiffeq is in the extra ``dev``.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

import schemes

TIMES = torch.tensor([0.0, 0.3, 0.35, 2.0], dtype=torch.float64)
START = torch.tensor([[1.0, 0.3], [0.2, -0.5]], dtype=torch.float64)
CASES = [
    ("odeint", "dopri5", {}),
    ("odeint", "dopri8", {}),
    ("odeint", "bosh3", {"rtol": 1e-5, "atol": 1e-6}),
    ("odeint", "fehlberg2", {"rtol": 1e-5, "atol": 1e-6}),
    ("odeint", "adaptive_heun", {"rtol": 1e-5, "atol": 1e-6}),
    ("odeint", "rk4", {"options": {"step_size": 0.1}}),
    ("odeint", "implicit_adams", {"options": {"step_size": 0.1}}),
    ("odeint", "explicit_adams", {"options": {"step_size": 0.05}}),
    ("odeint_adjoint", "dopri5", {}),
    ("odeint_adjoint", "dopri8", {}),
    ("odeint_adjoint", "rk4", {"options": {"step_size": 0.1}}),
    ("odeint_adjoint", "scipy_solver", {}),
]


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.outside = nn.Linear(3, 8).double(), nn.Linear(8, 2).double()
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.outside(torch.tanh(self.inside(torch.cat((y, t.expand(*y.shape[:-1], 1)), -1))))


def solved(library: Any, call: str, method: str, options: dict[str, Any]) -> tuple[Tensor, Tensor, int, int]:
    """Values, all gradients in one vector, evaluations forward and in backward."""
    f, y0 = Field(), START.clone().requires_grad_()
    values = getattr(library, call)(f, y0, TIMES, method=method, **options)
    forward = f.calls
    weights = torch.arange(values.numel(), dtype=torch.float64).view_as(values).cos()
    gradients = torch.autograd.grad((values * weights).sum(), [y0, *f.parameters()])
    return values.detach(), torch.cat([g.flatten() for g in gradients]), forward, f.calls - forward


def jump(library: Any, options: dict[str, Any]) -> int:
    """Evaluations for y' = y that becomes y' = -3 y at t = 1/2."""
    calls = 0

    def f(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.where(t < 0.5, y, -3 * y)

    solution = library.odeint(f, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0]), options=options)
    assert abs(float(solution[-1]) - math.exp(-1)) < 1e-4
    return calls


def main() -> None:
    warnings.simplefilter("ignore")
    exact = solved(schemes, "odeint", "dopri5", {"rtol": 1e-12, "atol": 1e-13})
    print("| call, method | evaluations, ours / theirs | error of values | of gradients |")
    print("|---|---|---|---|")
    for call, method, options in CASES:
        cells = [solved(library, call, method, options) for library in (schemes, torchdiffeq)]
        work = " / ".join(f"{forward} + {backward}" if backward else str(forward) for _, _, forward, backward in cells)
        errors = (" / ".join(f"{(c[i] - exact[i]).norm() / exact[i].norm():.0e}" for c in cells) for i in (0, 1))
        print(f"| `{call}` {method} | {work} | {' | '.join(errors)} |")
    known = {"jump_t": torch.tensor([0.5])}
    for name, options in (("jump", {}), ("jump, with jump_t", known)):
        print(f"| `odeint` {name} | {jump(schemes, options)} / {jump(torchdiffeq, options)} | | |")


if __name__ == "__main__":
    main()
