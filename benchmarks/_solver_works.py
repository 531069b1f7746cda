"""Works that solvers are compared by: the same problem for this package, for others, and for f alone."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torchdiffeq
import torchode
from torch import Tensor, nn

from architectures.density.continuous import Dynamics
from schemes import Node, solve
from schemes.flow import Flow

TOL = 1e-5

OPTIONAL = "diffrax", "torchdyn"
"""Columns whose packages, of the same name, may be missing."""
OURS = "eager", "compiled", "backprop"
COLUMNS = *OURS, "torchdiffeq", "torchode", "torchdyn", "diffrax", "Radau", "compiled bare f"

Job = Callable[[], object]


class Work(NamedTuple):
    """A row of the table.

    Attributes:
        name: what is computed.
        jobs: those that compute it, by column; "eager" first. Results are compared with its one, but for None.
        limits: the most time that our fastest column should take, in those of others.
        rounds: share of the rounds that are taken, where one takes long.
    """

    name: str
    jobs: Mapping[str, Job]
    limits: Mapping[str, float]
    rounds: float = 1.0


def installed(column: str) -> bool:
    return column not in OPTIONAL or importlib.util.find_spec(column) is not None


# Vector fields ---------------------------------------------------------------------------------------------


class VanDerPol(nn.Module):
    """x'' = mu (1 - x^2) x' - x, states (..., 2)."""

    def __init__(self, mu: Tensor) -> None:
        super().__init__()
        self.mu = nn.Parameter(mu)

    def forward(self, t: Any, y: Tensor) -> Tensor:
        x, v = y[..., 0], y[..., 1]
        return torch.stack((v, self.mu * (1 - x * x) * v - x), -1)


class Lorenz(nn.Module):
    def forward(self, t: Any, y: Tensor) -> Tensor:
        x, v, z = y.unbind(-1)
        return torch.stack((10 * (v - x), x * (28 - z) - v, x * v - (8 / 3) * z), -1)


class MLP(nn.Module):
    """2-64-64-2 with tanh; of a node and a state, or of a time and a state."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, t: Any, y: Tensor) -> Tensor:
        return self.layers(y)

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        linears = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linears]


class TimeAndState(nn.Module):
    """A field of a flow, called as ``f(t, y)``."""

    def __init__(self, bank: nn.Module) -> None:
        super().__init__()
        self.bank = bank

    def forward(self, t: Any, y: Tensor) -> Tensor:
        return self.bank(Node(0, t, 0.0), y)


# Solvers, which give the states at all times ----------------------------------------------------------------


def ours(f: nn.Module, y0: Tensor, times: Tensor, tol: float, **options: Any) -> Any:
    return solve(f, y0, times, grid={"name": "adaptive", "rtol": tol, "atol": tol}, **options).values


def ours_compiled(f: nn.Module, y0: Tensor, times: Tensor, tol: float, **options: Any) -> Any:
    return ours(f, y0, times, tol, compile=True, **options)


def of_torchdiffeq(f: nn.Module, y0: Tensor, times: Tensor, tol: float) -> Any:
    return torchdiffeq.odeint(f, y0, times, rtol=tol, atol=tol, method="dopri5")


def of_torchode(f: nn.Module, y0: Tensor, times: Tensor, tol: float) -> Tensor:
    package: Any = torchode  # whose names hide their types
    term = package.ODETerm(f)
    solver = package.AutoDiffAdjoint(package.Dopri5(term), package.IntegralController(atol=tol, rtol=tol, term=term))
    return solver.solve(package.InitialValueProblem(y0=y0, t_eval=times.expand(len(y0), -1))).ys.transpose(0, 1)


def of_radau(f: nn.Module, y0: Tensor, times: Tensor, tol: float) -> Tensor:
    """SciPy's, by a function of numbers, which is what it is fastest with."""
    from scipy.integrate import solve_ivp

    (mu,) = (parameter.item() for parameter in f.parameters())
    start, end = times.tolist()
    solved = solve_ivp(
        lambda t, y: (y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]), (start, end), y0.tolist(), "Radau", (start, end),
        rtol=tol, atol=tol,
    )  # fmt: skip
    return torch.from_numpy(solved.y.T)


Solver = Callable[..., Any]
MODES: dict[str, Solver] = {"eager": ours, "compiled": ours_compiled}
TORCH: dict[str, Solver] = {**MODES, "torchdiffeq": of_torchdiffeq, "torchode": of_torchode}


# Jobs ------------------------------------------------------------------------------------------------------


def states(run: Solver, f: nn.Module, y0: Tensor, times: Tensor, tol: float, **options: Any) -> Job:
    """The states, without derivatives."""
    f = copy.deepcopy(f)  # compiled solves are kept with f

    @torch.no_grad()
    def once() -> Any:
        return run(f, y0, times, tol, **options)

    return once


def gradients(run: Solver, f: nn.Module, y0: Tensor, times: Tensor, tol: float, **options: Any) -> Job:
    """The gradient of the sum of squares of all states, for the initial state and the parameters; the former."""
    y0, f = y0.clone().requires_grad_(), copy.deepcopy(f)

    def once() -> Any:
        f.zero_grad(set_to_none=True)
        y0.grad = None
        run(f, y0, times, tol, **options).square().sum().backward()
        return y0.grad

    return once


def diffrax(job: str, field: str, *arguments: Any, **options: Any) -> dict[str, Job]:
    """The column of diffrax, where it is installed, by the names of a job and of a field in ``_diffrax``."""
    if not installed("diffrax"):
        return {}
    import _diffrax

    return {"diffrax": getattr(_diffrax, job)(getattr(_diffrax, field), *arguments, **options)}


# The works -------------------------------------------------------------------------------------------------


def oscillators() -> Work:
    problem = VanDerPol(torch.tensor(2.0)), torch.randn(256, 2), torch.tensor([0.0, 7.0]), TOL
    jobs = {name: states(run, *problem) for name, run in TORCH.items()}
    jobs |= diffrax("states", "van_der_pol", *problem[1:], np.float32(2.0))
    return Work("256 van der Pol oscillators", jobs, {"diffrax": 2.0})


def lorenz() -> Work:
    problem = Lorenz(), torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([0.0, 5.0]), TOL
    jobs = {name: states(run, *problem) for name, run in TORCH.items()}
    return Work("one Lorenz system", jobs | diffrax("states", "lorenz", *problem[1:]), {"diffrax": 4.0})


def mlp_states() -> Work:
    f = MLP()
    problem = f, torch.randn(128, 2), torch.tensor([0.0, 1.0]), TOL
    jobs = {name: states(run, *problem) for name, run in TORCH.items()}
    jobs |= diffrax("states", "mlp", *problem[1:], f.weights())
    return Work("MLP 2-64-64-2, batch 128, forward", jobs, {"diffrax": 1.5})


def mlp_gradients() -> Work:
    f = MLP()
    problem = f, torch.randn(128, 2), torch.tensor([0.0, 1.0]), TOL
    jobs = {name: gradients(run, *problem) for name, run in TORCH.items()}
    jobs["backprop"] = gradients(ours, *problem, gradient="backprop")
    jobs |= diffrax("gradients", "mlp", *problem[1:], f.weights())
    return Work("MLP 2-64-64-2, batch 128, forward + backward", jobs, {"diffrax": 1.2})


def output_times(job: Callable[..., Job], job_of_diffrax: str, name: str) -> Work:
    problem = VanDerPol(torch.tensor(2.0)), torch.randn(256, 2), torch.linspace(0.0, 7.0, 1000), TOL
    jobs = {name: job(run, *problem) for name, run in TORCH.items()}
    jobs |= diffrax(job_of_diffrax, "van_der_pol", *problem[1:], np.float32(2.0))
    return Work(f"256 oscillators, 1,000 output times, {name}", jobs, {"diffrax": 2.0, "torchode": 0.5}, 0.5)


def per_sample() -> Work:
    mu = torch.linspace(1.0, 20.0, 256)
    problem = VanDerPol(mu), torch.tensor([2.0, 0.0]).repeat(256, 1), torch.tensor([0.0, 20.0]), TOL
    jobs = {name: states(run, *problem, batching="per_sample") for name, run in MODES.items()}
    jobs |= {"torchode": states(of_torchode, *problem)}
    jobs |= diffrax("states_per_sample", "van_der_pol", *problem[1:], mu.numpy())
    return Work("256 oscillators, each its own steps", jobs, {"diffrax": 2.0, "torchode": 0.5}, 0.25)


def stiff() -> Work:
    mu = torch.tensor(1000.0, dtype=torch.float64)
    y0, times = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 2000.0], dtype=torch.float64)
    problem = VanDerPol(mu), y0, times, 1e-6
    jobs = {name: states(run, *problem, scheme="kvaerno5") for name, run in MODES.items()}
    jobs["Radau"] = states(of_radau, *problem)
    jobs |= diffrax("states", "van_der_pol", *problem[1:], mu.numpy(), solver="Kvaerno5")
    return Work("one stiff van der Pol oscillator, mu = 1000, kvaerno5", jobs, {"diffrax": 2.0, "Radau": 1.0}, 0.25)


def conv_field(flow: Flow, y: Tensor) -> Work:
    """``flow`` is that of an ODE-Net, tolerance 1e-3, and "bare f" as many calls of its field as the solve makes."""
    captured = copy.deepcopy(flow)
    captured.compile_steps()
    with torch.no_grad():
        flow(y)
    calls, t = flow.forward_counts.evaluations, torch.tensor(0.5)
    bare = torch.compile(lambda t, y: flow.bank(Node(0, t, 0.0), y), dynamic=False)
    grid: Any = flow.grid
    theirs = states(of_torchdiffeq, TimeAndState(flow.bank), y, torch.tensor([0.0, 1.0]), grid.rtol)

    @torch.no_grad()
    def bare_calls() -> None:
        for _ in range(calls):
            bare(t, y)

    jobs: dict[str, Job] = {
        "eager": torch.no_grad()(lambda: flow(y)),
        "compiled": torch.no_grad()(lambda: captured(y)),
        "torchdiffeq": lambda: theirs()[-1],
        "compiled bare f": bare_calls,
    }
    return Work("ODE-Net conv field, batch 128, forward", jobs, {"compiled bare f": 1.05}, 0.5)


def continuous_flow() -> Work:
    """The exact trace by a product for each dimension, in all of them; the gradient of the negative log-likelihood."""
    field, x, times = MLP(), torch.randn(128, 2), torch.tensor([0.0, 1.0])

    def loss(x: Tensor, log_det: Tensor) -> Tensor:
        return (x.square().sum(1) / 2 - log_det).mean()

    def our_step(f: nn.Module, gradient: str, compile: bool) -> Job:
        def once() -> Any:
            f.zero_grad(set_to_none=True)
            y = ours(f, (x, torch.zeros(len(x))), times, TOL, gradient=gradient, compile=compile)
            loss(y[0][-1], y[1][-1]).backward()
            return gradient_of(f)

        return once

    jobs = {
        "eager": our_step(Dynamics(copy.deepcopy(field)), "checkpoint", False),
        "backprop": our_step(Dynamics(copy.deepcopy(field)), "backprop", False),
        "compiled": our_step(Dynamics(copy.deepcopy(field)), "checkpoint", True),
    }
    if installed("torchdyn"):
        from torchdyn.models import CNF
        from torchdyn.numerics import odeint

        theirs = CNF(nn.Sequential(*copy.deepcopy(field).layers))

        def their_step() -> Any:
            theirs.zero_grad(set_to_none=True)
            start = torch.cat((torch.zeros(len(x), 1), x), 1)
            y = odeint(lambda t, y: theirs(y), start, times, "dopri5", atol=TOL, rtol=TOL)[1][-1]
            loss(y[:, 1:], -y[:, 0]).backward()
            return gradient_of(theirs)

        jobs["torchdyn"] = their_step
    return Work("CNF, exact trace, batch 128, a training step", jobs, {"torchdyn": 1.0}, 0.5)


def gradient_of(f: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in f.parameters() if p.grad is not None])


def works(flow: Flow, y: Tensor) -> list[Callable[[], Work]]:
    """All rows; ``flow`` and ``y`` are those of :func:`conv_field`."""
    return [
        oscillators,
        lorenz,
        mlp_states,
        mlp_gradients,
        lambda: conv_field(flow, y),
        lambda: output_times(states, "states", "forward"),
        lambda: output_times(gradients, "gradients", "forward + backward"),
        per_sample,
        stiff,
        continuous_flow,
    ]
