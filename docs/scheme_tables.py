"""The tables of choosing.md, from the registry: `python docs/scheme_tables.py` writes them between their markers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from architectures.factory import networks_for_scheme
from schemes.analysis.stability import amplification, refusal, stability_intervals
from schemes.core.scheme import Scheme
from schemes.registry import GRADIENTS, SCHEMES, single_step

PAGE = Path(__file__).with_name("choosing.md")
BLOCK = re.compile(r"(<!-- schemes: (\w+) -->\n).*?(<!-- end of schemes -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """A scheme with the properties that the tables show."""

    name: str
    scheme: Scheme

    @cached_property
    def intervals(self) -> tuple[float | None, float | None]:
        return stability_intervals(self.scheme)

    @property
    def solves_odes(self) -> bool:
        """Whether it is a method for y' = f with any f."""
        return self.scheme.order is not None and self.scheme.problem == "general"

    @property
    def starts_alone(self) -> bool:
        """Whether a step needs nothing of the steps before."""
        return self.scheme.history == 0 and self.scheme.components == 1

    @cached_property
    def damping(self) -> float | None:
        """|R(z)| as z goes to infinity, of a rational R that stays finite."""
        rational = self.scheme.stability_function()
        if rational is None:
            return None
        numerator, denominator = (np.trim_zeros(np.where(abs(p) < 1e-12, 0, p), "b") for p in rational)
        return 0.0 if len(numerator) < len(denominator) else float(abs(numerator[-1] / denominator[-1]))

    @cached_property
    def keeps_amplitudes(self) -> bool:
        """Whether oscillations u' = i omega u are neither damped nor amplified, all along the stability interval."""
        length = self.intervals[1]
        if refusal(self.scheme) is not None or not length:
            return False
        axis = 1j if self.scheme.components == 1 else 1.0  # of a coupled scheme z is h omega
        factors = amplification(self.scheme, axis * min(length, 10.0) * np.linspace(0.01, 0.99, 50))
        return bool(np.allclose(factors, 1.0, rtol=0, atol=1e-9))

    @cached_property
    def adjoint(self) -> bool:
        """Whether gradient=adjoint takes it on a uniform grid."""
        return GRADIENTS.build("adjoint").unsupported_scheme_reason(self.scheme) is None


def mark(value: bool) -> str:
    return "yes" if value else ""


def length(value: float | None) -> str:
    return "-" if value is None else "unbounded" if value == float("inf") else f"{value:.3g}"


def order(row: Row) -> str:
    problem = "" if row.scheme.problem == "general" else f" ({row.scheme.problem} f)"
    return "-" if row.scheme.order is None else f"{row.scheme.order}{problem}"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "scheme": lambda row: f"`{row.name}`",
    "networks": lambda row: ", ".join(f"`{name}`" for name in networks_for_scheme(row.name)),
    "order": order,
    "evaluations of f a step": lambda row: str(row.scheme.stages),
    "older values kept": lambda row: str(row.scheme.history),
    "components": lambda row: str(row.scheme.components),
    "real interval": lambda row: length(row.intervals[0]),
    "imaginary interval": lambda row: length(row.intervals[1]),
    "factor at infinity": lambda row: "-" if row.damping is None else f"{row.damping:.3g}",
    "implicit": lambda row: mark(row.scheme.implicit),
    "error control": lambda row: mark(row.scheme.error_order is not None),
    "reversible": lambda row: mark(row.scheme.reversible),
    "adjoint": lambda row: mark(row.adjoint),
}

AXES = ["real interval", "imaginary interval"]
COST = ["order", "evaluations of f a step"]
TABLES: dict[str, tuple[Callable[[Row], bool], Sequence[str]]] = {
    "blocks": (lambda row: bool(networks_for_scheme(row.name)), ["networks", *COST, *AXES]),
    "fixed": (lambda row: row.solves_odes and row.starts_alone and not row.scheme.implicit, [*COST, *AXES]),
    "multistep": (lambda row: row.scheme.multistep and not row.scheme.reversible, [*COST, "older values kept", *AXES]),
    "controlled": (lambda row: row.scheme.error_order is not None, [*COST, "implicit", "reversible", "adjoint"]),
    "stiff": (lambda row: row.scheme.implicit, [*COST, "factor at infinity", "error control"]),
    "reversible": (
        lambda row: row.scheme.reversible,
        [*COST, "older values kept", "components", "error control", "adjoint"],
    ),
    "oscillations": (lambda row: row.keeps_amplitudes, [*COST, "imaginary interval", "implicit", "reversible"]),
    "densities": (lambda row: not row.solves_odes, ["order", "components", "networks"]),
    "all": (lambda row: True, [column for column in COLUMNS if column not in ("scheme", "networks")]),
}
"""For each table, which schemes are in it, and its columns."""


def table(name: str, rows: Sequence[Row]) -> str:
    """One table as Markdown."""
    selects, columns = TABLES[name]
    columns = ["scheme", *columns]
    lines = [columns, ["---"] * len(columns), *([COLUMNS[c](row) for c in columns] for row in rows if selects(row))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(text: str) -> str:
    """A page with the tables between its markers."""
    ours = [name for name in SCHEMES if not SCHEMES.entry(name).outside]
    rows = [Row(name, SCHEMES.build(single_step(name))) for name in ours]
    return BLOCK.sub(lambda block: f"{block[1]}\n{table(block[2], rows)}\n{block[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
