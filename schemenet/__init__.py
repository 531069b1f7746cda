"""schemenet: a network architecture is a numerical scheme applied to a vector field.

The public names of the packages ``schemes``, ``architectures`` and ``lightning_modules``. Each is imported at its first
use, so that this import alone loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from architectures.costs.matching import match_budget
    from architectures.factory import create_model, list_models, networks_for_scheme
    from architectures.model import Model
    from architectures.registry import ARCHITECTURES, FIELDS
    from architectures.supervised.insertion import insert
    from architectures.supervised.network import Network, Stage
    from lightning_modules.commands import compare, evaluate, export, load, refine, train
    from lightning_modules.config.registries import CALLBACKS, DATA, LAUNCHERS, LOGGERS, OPTIMIZERS, TASKS, TRAINERS
    from lightning_modules.data.datamodule import SplitData
    from lightning_modules.data.supervised.base import Labelled, LabelledData
    from lightning_modules.tasks.base import TaskModule
    from lightning_modules.tasks.classification import ClassificationModule
    from lightning_modules.tasks.density import DensityModule
    from lightning_modules.tasks.regression import RegressionModule
    from lightning_modules.tasks.series import SeriesModule
    from lightning_modules.tasks.trajectory import TrajectoryModule
    from schemes.control.controlled_flow import ControlledFlow
    from schemes.control.problem import ControlProblem
    from schemes.control.solve import ControlSolution, solve_control
    from schemes.core.node import Node
    from schemes.core.scheme import Scheme, StepResult
    from schemes.core.tableau import ButcherTableau
    from schemes.core.weighting import separate_weights
    from schemes.errors import SchemenetError, SolverError
    from schemes.flow import Flow, Trajectory
    from schemes.gradients.base import GradientMode
    from schemes.integration.grid import FlowGrid, Grid
    from schemes.ivp.solution import Solution
    from schemes.ivp.solve import solve
    from schemes.ivp.torchdiffeq_api import odeint, odeint_adjoint, odeint_dense, odeint_event
    from schemes.ivp.trajectory_flow import TrajectoryFlow
    from schemes.methods.runge_kutta import RungeKutta
    from schemes.plugins import import_modules
    from schemes.registry import CONTROL_METHODS, CONTROL_PROBLEMS, GRADIENTS, GRIDS, NOISES, SCHEMES, SHARINGS

    __version__: str
    """The version of the installed package."""

_HOMES = {
    "architectures.costs.matching": ["match_budget"],
    "architectures.factory": ["create_model", "list_models", "networks_for_scheme"],
    "architectures.model": ["Model"],
    "architectures.registry": ["ARCHITECTURES", "FIELDS"],
    "architectures.supervised.insertion": ["insert"],
    "architectures.supervised.network": ["Network", "Stage"],
    "lightning_modules.commands": ["compare", "evaluate", "export", "load", "refine", "train"],
    "lightning_modules.config.registries": [
        "CALLBACKS", "DATA", "LAUNCHERS", "LOGGERS", "OPTIMIZERS", "TASKS", "TRAINERS",
    ],
    "lightning_modules.data.datamodule": ["SplitData"],
    "lightning_modules.data.supervised.base": ["Labelled", "LabelledData"],
    "lightning_modules.tasks.base": ["TaskModule"],
    "lightning_modules.tasks.classification": ["ClassificationModule"],
    "lightning_modules.tasks.density": ["DensityModule"],
    "lightning_modules.tasks.regression": ["RegressionModule"],
    "lightning_modules.tasks.series": ["SeriesModule"],
    "lightning_modules.tasks.trajectory": ["TrajectoryModule"],
    "schemes.control.controlled_flow": ["ControlledFlow"],
    "schemes.control.problem": ["ControlProblem"],
    "schemes.control.solve": ["ControlSolution", "solve_control"],
    "schemes.core.node": ["Node"],
    "schemes.core.scheme": ["Scheme", "StepResult"],
    "schemes.core.tableau": ["ButcherTableau"],
    "schemes.core.weighting": ["separate_weights"],
    "schemes.errors": ["SchemenetError", "SolverError"],
    "schemes.flow": ["Flow", "Trajectory"],
    "schemes.gradients.base": ["GradientMode"],
    "schemes.integration.grid": ["FlowGrid", "Grid"],
    "schemes.ivp.solution": ["Solution"],
    "schemes.ivp.solve": ["solve"],
    "schemes.ivp.torchdiffeq_api": ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"],
    "schemes.ivp.trajectory_flow": ["TrajectoryFlow"],
    "schemes.methods.runge_kutta": ["RungeKutta"],
    "schemes.plugins": ["import_modules"],
    "schemes.registry": ["CONTROL_METHODS", "CONTROL_PROBLEMS", "GRADIENTS", "GRIDS", "NOISES", "SCHEMES", "SHARINGS"],
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ARCHITECTURES",
    "CALLBACKS",
    "CONTROL_METHODS",
    "CONTROL_PROBLEMS",
    "DATA",
    "FIELDS",
    "GRADIENTS",
    "GRIDS",
    "LAUNCHERS",
    "LOGGERS",
    "NOISES",
    "OPTIMIZERS",
    "SCHEMES",
    "SHARINGS",
    "TASKS",
    "TRAINERS",
    "ButcherTableau",
    "ClassificationModule",
    "ControlProblem",
    "ControlSolution",
    "ControlledFlow",
    "DensityModule",
    "Flow",
    "FlowGrid",
    "GradientMode",
    "Grid",
    "Labelled",
    "LabelledData",
    "Model",
    "Network",
    "Node",
    "RegressionModule",
    "RungeKutta",
    "Scheme",
    "SchemenetError",
    "SeriesModule",
    "Solution",
    "SolverError",
    "SplitData",
    "Stage",
    "StepResult",
    "TaskModule",
    "Trajectory",
    "TrajectoryFlow",
    "TrajectoryModule",
    "__version__",
    "compare",
    "create_model",
    "evaluate",
    "export",
    "import_modules",
    "insert",
    "list_models",
    "load",
    "match_budget",
    "networks_for_scheme",
    "odeint",
    "odeint_adjoint",
    "odeint_dense",
    "odeint_event",
    "refine",
    "separate_weights",
    "solve",
    "solve_control",
    "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("schemenet")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'schemenet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
