"""The registries of networks and of their parts. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemes.errors import SchemenetError, nearest
from schemes.registry import Registry

ARCHITECTURES = Registry(
    "architecture", "architectures", context=("num_classes", "in_chans", "image_size"),
    skip=("timm_models",),  # importing timm takes seconds
    builds="torch.nn.Module",
)  # fmt: skip
"""Networks, also those of densities, dynamics and series."""
FIELDS = Registry(
    "field", "architectures.fields",
    context=("channels", "out", "inner", "fine", "stride", "activation_order", "norm", "leading_norm"),
    builds="torch.nn.Module",
)  # fmt: skip
"""Right-hand sides f: the residual branches of networks."""
SYSTEMS = Registry("system", "architectures.dynamics.systems")

CLASSIFICATION = "classification"
"""The task of architectures and data sets that name none."""


def tasks_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What an architecture or a data set is for, by the facts of its registration: one task, or several."""
    tasks = facts.get("task", CLASSIFICATION)
    return (tasks,) if isinstance(tasks, str) else tuple(tasks)


def networks_matching(word: str, architectures: Registry, schemes: Registry) -> list[str]:
    """The networks that are known by a word: a scheme's name or alias, or ``ode_net``.

    Args:
        word: what the fact ``word`` of an architecture is compared with, aliases of schemes resolved.
        architectures: the registry of networks, imported or read.
        schemes: the registry of schemes.

    Returns:
        Their names, sorted; none for a scheme without a network of its own.

    Raises:
        SchemenetError: if the word is neither a network's nor a scheme's.
    """

    def resolved(name: str) -> str:
        return schemes.canonical(name) if name in schemes else name

    words: dict[str, str] = {e.name: e.facts["word"] for e in architectures.families() if e.facts.get("word")}
    names = sorted(name for name, of in words.items() if resolved(of) == resolved(word))
    if not names and word not in schemes:
        known = sorted(set(words.values()))
        hint = nearest(word, [*known, *schemes.all_names()])
        raise SchemenetError(
            f"no network is known for the word {word!r}; {hint + ' ' if hint else ''}known: {', '.join(known)}"
        )
    return names
