"""Checks and rounding of the sizes that architectures take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from architectures.layers.norms import norm_multiple
from architectures.registry import FIELDS
from schemes.errors import SchemenetError
from schemes.schema import Spec


def name_of(spec: Spec) -> str:
    """The name in a spec; what is no spec is left for its registry to refuse."""
    return str(spec.get("name", "")) if isinstance(spec, Mapping) else str(spec)


def require(**values: float | Sequence[float]) -> None:
    """Refuse what is not positive and finite, all of it in one message."""
    wrong = []
    for key, value in values.items():
        numbers = [value] if isinstance(value, int | float) else list(value)
        if not numbers or not all(0 < number < math.inf for number in numbers):
            wrong.append(f"{key} expected to be positive, got {value!r}")
    if wrong:
        raise SchemenetError("\n".join(wrong))


def require_vector_field(field: Spec) -> None:
    """Refuse a field that is not known, takes other parameters, or has images for states."""
    FIELDS.check_spec(field)
    if FIELDS.entry(name_of(field)).facts.get("state") != "vector":
        raise SchemenetError(f"has vectors for states; field {name_of(field)!r} takes images")


def depth_of(blocks: int, period: int) -> int:
    """The weighted layers of a network with so many blocks in each stage: ``period`` in one of each, stem and head."""
    return period * blocks + 2


def scaled(widths: Sequence[int], factor: float, multiple: int = 1) -> list[int]:
    """Widths times a real factor, each rounded to a multiple (at least one)."""
    return [max(1, round(width * factor / multiple)) * multiple for width in widths]


def augmented(width: int, augment: int, components: int, norm: str = "none") -> int:
    """The width of a state with zero channels appended, refused where a coupled scheme or a norm cannot split it."""
    if augment < 0:
        raise SchemenetError(f"augment expected to be at least 0, got {augment}")
    multiple = components * norm_multiple(norm)
    if rest := (width + augment) % multiple:
        state, use = f"{width} + {augment} channels (augment={augment})", f"use augment={augment + multiple - rest}"
        if (width + augment) % components:
            raise SchemenetError(
                f"a coupled state of {state} has no {components} equal parts; {use}, or a scheme of one component"
            )
        raise SchemenetError(f"norm={norm} has groups that do not divide {state}; {use}, or norm=batch")
    return width + augment
