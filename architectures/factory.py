"""Networks by name."""

from __future__ import annotations

from typing import Any

from architectures.network import Network
from architectures.registry import ARCHITECTURES, known_as
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES


def create_model(
    name: str, *, num_classes: int = 10, in_chans: int = 3, image_size: int | None = 32, **options: Any
) -> Network:
    """The network that ``name`` stands for, with random weights.

    ``options`` are the architecture's own: ``scheme``, ``field``, ``sharing``, ``grid``, ``gradient``, ``depth``,
    ``width`` ... (``schemenet models NAME`` lists them). A scheme, field, grid or gradient is a name or a mapping with
    ``name`` and parameters. Raises SchemenetError (a ValueError) for an unknown name or option, a wrong type or an
    impossible pair, with the nearest right thing. Under ``torch.device("meta")`` no weight is allocated.
    """
    context = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    if image_size is None and "vector" not in ARCHITECTURES.entry(name).facts.get("reads", ("image",)):
        readers = [n for n in ARCHITECTURES if "vector" in ARCHITECTURES.entry(n).facts.get("reads", ())]
        raise SchemenetError(
            f"architecture {name!r} reads images, and this data has vectors of {in_chans} numbers; "
            f"architectures that read vectors: {', '.join(readers)}"
        )
    counts = {
        "num_classes": num_classes,
        "in_chans": in_chans,
        "image_size": 1 if image_size is None else image_size,
    }
    if wrong := [f"{key} expected to be at least 1, got {value}" for key, value in counts.items() if value < 1]:
        raise SchemenetError("\n".join(wrong))
    ARCHITECTURES.check(name, options)
    try:
        return ARCHITECTURES.build({**options, "name": name}, **context)
    except SchemenetError as error:
        raise SchemenetError(f"architecture {name!r}: {error}") from error


def list_models(pattern: str = "*") -> list[str]:
    """The names of the registered networks that match a shell pattern, in natural order."""
    return ARCHITECTURES.list(pattern)


def for_scheme(word: str) -> list[str]:
    """The networks that a word (a scheme's name or alias, or ``ode_net``) is known as, e.g. two for ``rk2``."""
    entries = [ARCHITECTURES.entry(name) for name in ARCHITECTURES]
    words = {entry.name: entry.facts.get("word") for entry in entries if not entry.preset}
    schemes = [name for scheme in SCHEMES for name in (scheme, *SCHEMES.aliases(scheme))]
    return known_as(word, words, schemes, SCHEMES.canonical)
