"""Table and pictures of control.md: `python docs/control.py [RUNS]`, which trains one network below RUNS."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch
from torch import Tensor

import schemenet
from lightning_modules.plotting.command import save
from lightning_modules.plotting.control import draw
from schemes.control.examples import Car, LinearQuadratic

FOLDER = Path(__file__).with_name("control")
STEPS = 20
PROBLEMS = {"car": Car(), "linear_quadratic": LinearQuadratic()}
METHODS = {
    "direct_shooting": "direct_shooting",
    "successive_approximations": "successive_approximations",
    "successive_approximations, rho = 0": {"name": "successive_approximations", "rho": 0.0, "iterations": 100},
}
RESTING = (3.0, 1.5)
"""Where the true Lotka-Volterra system stays without a control."""


def table() -> None:
    """Both problems by both methods."""
    rows = []
    for name, problem in PROBLEMS.items():
        for method, spec in METHODS.items():
            for scheme in ("forward_euler", "rk4"):
                solution = schemenet.solve_control(problem, STEPS, spec, scheme)
                rows.append(
                    {
                        "problem": name, "method": method, "scheme": scheme, "cost": f"{solution.cost:.7g}",
                        "least": f"{problem.best_cost:.7g}", "constraint": f"{_largest(solution.constraint):.2g}",
                        "converged": solution.search.converged,
                        "iterations": solution.search.iterations, "solves": solution.search.evaluations,
                    }
                )  # fmt: skip
                print(rows[-1], flush=True)
    with (FOLDER / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _largest(constraint: Tensor) -> float:
    return float(constraint.abs().amax()) if len(constraint) else 0.0


def steered(runs: Path) -> None:
    """A learned predator-prey equation, led to a point by a control that costs little."""
    words = "experiment=dynamics", "trainer.max_epochs=100", "trainer.check_test_every_n_epoch=100"
    run = schemenet.train(*words, folder=runs / "flow")
    network = run.network.double()
    start = torch.tensor([[1.5, 1.0]], dtype=torch.float64)

    def miss(x: Tensor) -> Tensor:
        return (x - x.new_tensor(RESTING)).square().sum(1)

    for weight in (1.0, 1e-2):
        problem = schemenet.ControlledFlow(network.rate, start, 5.0, miss, weight)
        solution = schemenet.solve_control(problem, steps=40, sharing={"name": "basis", "kind": "hat", "size": 21})
        print(f"weight {weight:g}: misses by {float(miss(solution.states[-1]).sqrt()):.3g}, cost {solution.cost:.4g}")
    save(draw(solution, problem), FOLDER / "steered.png")


if __name__ == "__main__":
    steered(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/control"))
    table()
