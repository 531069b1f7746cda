"""Direct shooting: the best control by gradients through the solver."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from schemes.control.discretization import DiscretizedProblem, Outcome
from schemes.control.search import LEAST_TIME, NO_NUMBER, Search, require_at_least
from schemes.registry import CONTROL_METHODS

NOISE = 64
"""Roundings by which costs of equal controls may differ: below, a line search finds no decrease, and SciPy gives up."""


@CONTROL_METHODS.register("direct_shooting")
class DirectShooting:
    """Minimises the cost as a function of the control's coefficients, with gradients by backprop through the solver.

    SciPy's L-BFGS-B takes the steps, where the end is constrained its SLSQP. The multipliers of the constraints, by
    which costates begin, are those for which the gradient of the Lagrangian is least where no bound is active.

    Args:
        tolerance: of the cost, as of ``scipy.optimize.minimize``; not below ``NOISE`` roundings of its dtype.
        iterations: most of them.

    Reference: Betts, "Practical Methods for Optimal Control and Estimation Using Nonlinear Programming", SIAM, 2010.
    """

    def __init__(self, tolerance: float = 1e-10, iterations: int = 500) -> None:
        require_at_least("direct_shooting", 0, tolerance=tolerance)
        require_at_least("direct_shooting", 1, iterations=iterations)
        self.tolerance, self.iterations = tolerance, iterations

    def __call__(self, discretized: DiscretizedProblem) -> Search:
        variables = discretized.variables()
        like = parameters_to_vector(variables).detach()
        evaluations = itertools.count()

        def outcome(values: np.ndarray) -> Outcome:
            vector_to_parameters(torch.tensor(values).to(like), variables)
            next(evaluations)
            return discretized()

        def gradient(value: Tensor) -> np.ndarray:
            parts = torch.autograd.grad(value, variables, retain_graph=True, materialize_grads=True)
            return parameters_to_vector(parts).double().cpu().numpy()

        def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
            value = outcome(values).cost
            return value.item(), gradient(value)

        def constraint(values: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return outcome(values).constraint.double().cpu().numpy()

        def jacobian(values: np.ndarray) -> np.ndarray:
            return np.stack([gradient(part) for part in outcome(values).constraint])

        start = like.double().cpu().numpy()
        constrained = len(constraint(start)) > 0
        bounds = _bounds(discretized)
        constraints = [{"type": "eq", "fun": constraint, "jac": jacobian}] if constrained else []
        optimum = minimize(
            cost, start, jac=True, bounds=bounds, constraints=constraints,
            tol=max(self.tolerance, NOISE * torch.finfo(like.dtype).eps),
            method="SLSQP" if constrained else "L-BFGS-B", options={"maxiter": self.iterations},
        )  # fmt: skip
        vector_to_parameters(torch.from_numpy(optimum.x).to(like), variables)
        with torch.no_grad():
            at_end = discretized().constraint
        finite = bool(np.isfinite(optimum.fun)) and bool(at_end.isfinite().all())
        multipliers = torch.zeros_like(at_end)
        if constrained and finite:
            # Bounds are met to rounding, which is not the same on all processors.
            inside = np.sqrt(torch.finfo(like.dtype).eps) * np.maximum(1.0, np.abs(optimum.x))
            free = (optimum.x > bounds[:, 0] + inside) & (optimum.x < bounds[:, 1] - inside)
            slopes, rows = cost(optimum.x)[1][free], jacobian(optimum.x)[:, free]
            multipliers = torch.from_numpy(np.linalg.lstsq(rows.T, -slopes, rcond=None)[0]).to(like)
        message = str(optimum.message) if finite else NO_NUMBER
        return Search(bool(optimum.success) and finite, message, int(optimum.nit), next(evaluations), multipliers)


def _bounds(discretized: DiscretizedProblem) -> np.ndarray:
    """Least and largest value of each variable, (variables, 2)."""
    fields = len(list(discretized.flow.parameters()))
    bounds = torch.stack((discretized.lower, discretized.upper), dim=1).repeat(fields, 1).double().cpu().numpy()
    if discretized.problem.free_end_time:
        bounds = np.concatenate((bounds, [[LEAST_TIME * discretized.problem.end_time, math.inf]]))
    return bounds
