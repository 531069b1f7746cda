"""Arguments of architectures: checks of sizes and fields, rounding of widths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from architectures.layers.norms import norm_multiple
from architectures.registry import FIELDS
from schemes.errors import Problems, SchemenetError
from schemes.field_bank import as_field
from schemes.schema import Spec


def name_of(spec: Spec) -> str:
    """The name in a spec, or of a class or an object. A wrong spec is passed on as text, for its registry to reject."""
    if isinstance(spec, Mapping):
        return str(spec.get("name", ""))
    if isinstance(spec, str | int | float | None):
        return str(spec)
    return str(getattr(spec, "__name__", type(spec).__name__))


class FieldFacts(NamedTuple):
    """What a network has to know of a field before it makes one.

    The facts of a registration, or attributes of a class of these names; the defaults hold where a field says nothing.

    Attributes:
        expansion: output channels of a branch by those of the level.
        convolutions: weighted layers in it, by which a depth is counted.
        state: "image" or "vector"; None for either.
    """

    expansion: int = 1
    convolutions: int = 2
    state: str | None = None


def field_facts(field: Spec) -> FieldFacts:
    """The facts of a field. Raises SchemenetError for a field that is not known, or takes other parameters."""
    entry = FIELDS.entry_of(field)
    names = FieldFacts._fields
    facts = {name: getattr(entry.target, name) for name in names if hasattr(entry.target, name)}
    return FieldFacts(**facts | {name: entry.facts[name] for name in names if name in entry.facts})


def build_field(field: Spec, **sizes: Any) -> nn.Module:
    """A field with random weights, called as ``field(node, y)``.

    Args:
        field: a name, a mapping with ``name`` and parameters, a class, a function or a module.
        sizes: ``channels``, ``out``, ``inner`` and others, of which the field gets those that it takes.
    """
    return as_field(FIELDS.build(field, **sizes))


def require(**values: float | Sequence[float]) -> None:
    """Raise one SchemenetError that lists every value, or list of values, which is not positive and finite."""
    problems = Problems()
    for key, value in values.items():
        numbers = [value] if isinstance(value, int | float) else list(value)
        if not numbers or not all(0 < number < math.inf for number in numbers):
            problems.add(f"{key} expected to be positive, got {value!r}")
    problems.raise_if_any()


def require_vector_field(field: Spec) -> None:
    """Raise SchemenetError for a field that is not known, takes other parameters, or has images for states."""
    if field_facts(field).state == "image":
        raise SchemenetError(f"has vectors for states; field {name_of(field)!r} takes images")


def depth_of(blocks: int, period: int) -> int:
    """The weighted layers of a network with ``blocks`` blocks in each stage.

    ``period`` counts the layers in one block of each stage; stem and head have one layer each.
    """
    return period * blocks + 2


def scaled(widths: Sequence[int], factor: float, multiple: int = 1) -> list[int]:
    """Widths times ``factor``, each rounded to a positive multiple of ``multiple``."""
    return [max(1, round(width * factor / multiple)) * multiple for width in widths]


def augmented(width: int, augment: int, components: int, norm: str = "none") -> int:
    """The width of a state with zero channels appended.

    Args:
        width: before.
        augment: channels that are appended.
        components: equal parts into which a coupled scheme splits the state.
        norm: whose groups must divide a part.

    Raises:
        SchemenetError: where the parts or the groups do not divide the width; it says the next ``augment`` that fits.
    """
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
