"""Measures by which networks are judged, and their formats. Lower is better, always. Nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from architectures.registry import CLASSIFICATION, tasks_of
from lightning_modules.config.static_registry import static_registry


@dataclass(frozen=True)
class Measure:
    """``key`` names it in metrics (``test/error``) and results (``test_error``).

    People read ``scale`` times the value with so many ``digits`` and the ``unit``; differences are in ``points``. A run
    that diverged counts as ``worst`` where a mean needs a number.
    """

    key: str
    words: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 4
    points: str = ""
    worst: float = math.inf

    def number(self, value: float, sign: str = "") -> str:
        """The value in its unit, without it: ``2.80``."""
        return f"{self.scale * value:{sign}.{self.digits}f}"

    def format(self, value: float) -> str:
        """The value with its unit: ``2.80 %``."""
        return f"{self.number(value)} {self.unit}".rstrip()

    def signed(self, difference: float) -> str:
        """A difference in its unit, without it: ``-0.12``, ``+∞``."""
        return self.number(difference, "+") if math.isfinite(difference) else f"{'-' if difference < 0 else '+'}∞"

    @property
    def axis(self) -> str:
        """What an axis of it is called: ``test error, %``."""
        return f"test {self.words}{', ' * bool(self.unit)}{self.unit}"

    @property
    def head(self) -> str:
        """Its name and unit, for the head of a column: ``error %``."""
        return f"{self.words} {self.unit}".rstrip()


MEASURES = {
    measure.key: measure
    for measure in (
        Measure("error", "error", "%", 100.0, 2, "points", worst=1.0),
        Measure("rmse", "RMSE"),
        Measure("mse", "MSE", "x 1e-3", 1e3, 3, "x 1e-3"),
        Measure("nats", "NLL", "nats", 1.0, 3, "nats"),
        Measure("kl", "KL divergence", "nats", 1.0, 4, "nats"),
    )
}

ERROR = MEASURES["error"]


def task_of(data: str) -> str:
    """The task of a data set."""
    names = static_registry("data")
    return tasks_of(names.entry(data).facts)[0] if data in names else CLASSIFICATION


def measure_of(data: str) -> Measure:
    """The measure by which networks on a data set are judged: its registered one, or that of its task."""
    names, tasks = static_registry("data"), static_registry("task")
    measure = names.entry(data).facts.get("measure") if data in names else None
    return MEASURES[measure or tasks.entry(task_of(data)).facts["measure"]]


BY_RUNNING = "by_running_statistics"
"""Suffix of the measures that a network trained with noise has with the running statistics of its training."""
