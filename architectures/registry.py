"""The registries of networks and of their parts. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from schemes.errors import SchemenetError, nearest
from schemes.registry import Registry

ARCHITECTURES = Registry(
    "architecture", "architectures", context=("num_classes", "in_chans", "image_size"),
    skip=("timm_models",),  # importing timm takes seconds
)  # fmt: skip
FIELDS = Registry(
    "field", "architectures.fields",
    context=("channels", "out", "inner", "fine", "stride", "activation_order", "norm", "leading_norm"),
)  # fmt: skip
SYSTEMS = Registry("system", "architectures.dynamics.systems")

CLASSIFICATION = "classification"
"""The task of architectures and data sets that name none."""


def tasks_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What an architecture or a data set is for, by the facts of its registration: one task, or several."""
    tasks = facts.get("task", CLASSIFICATION)
    return (tasks,) if isinstance(tasks, str) else tuple(tasks)


def known_as(
    word: str, words: Mapping[str, str | None], schemes: list[str], canonical: Callable[[str], str]
) -> list[str]:
    """The networks that a word is known as.

    ``words`` maps architectures to the word that each is known for (a scheme's name or alias, or ``ode_net``),
    ``schemes`` are the names and aliases of schemes, ``canonical`` resolves an alias. A scheme that is known as no
    network gives none; a word that is neither is refused.
    """

    def resolved(name: str) -> str:
        return canonical(name) if name in schemes else name

    found = sorted(name for name, of in words.items() if of is not None and resolved(of) == resolved(word))
    if not found and word not in schemes:
        known = sorted({of for of in words.values() if of is not None})
        hint = nearest(word, [*known, *schemes])
        raise SchemenetError(
            f"no network is known for the word {word!r}; {hint + ' ' if hint else ''}known: {', '.join(known)}"
        )
    return found
