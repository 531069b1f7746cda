"""Which networks the user's words stand for. Read from the catalogue, before torch is imported."""

from __future__ import annotations

import re
from typing import NamedTuple

from lightning_modules.catalogue import catalogue
from schemes.errors import SchemenetError, nearest


class Choice(NamedTuple):
    """A network of a comparison; ``scheme`` None is the architecture's own."""

    word: str
    architecture: str
    scheme: str | None = None

    @property
    def arm(self) -> str:
        """The name in tables and folders."""
        return self.architecture if self.scheme is None else f"{self.architecture}-{self.scheme}"


def networks_of(word: str) -> list[Choice]:
    """The networks that a word is known as; ``scheme:architecture`` names any other pair, an architecture itself."""
    schemes, architectures = catalogue("scheme"), catalogue("architecture")
    if ":" in word:
        scheme, architecture = word.split(":", 1)
        for names, name in ((schemes, scheme), (architectures, architecture)):
            if name not in names.names:
                raise SchemenetError(
                    f"words: no {names.kind} {name!r} in {word!r}{nearest(name, names.names).removesuffix(';')}"
                )
        if "scheme" not in architectures.options(architecture):
            raise SchemenetError(f"words: architecture {architecture!r} in {word!r} takes no scheme")
        return [Choice(word, architecture, schemes.canonical(scheme))]
    wanted = schemes.canonical(word) if word in schemes.names else word
    known = {name: listing.facts.get("word") for name, listing in architectures.listings.items()}
    found = [name for name, of in known.items() if of is not None and wanted == schemes_name(of)]
    if not found and word in architectures.names:
        found = [word]
    if not found:
        words = sorted({of for of in known.values() if of})
        reason = (
            "is known as no network of its own; write it as scheme:architecture, e.g. " if word in schemes.names else ""
        )
        hint = (
            f"{reason}{word}:resnet"
            if reason
            else nearest(word, [*words, *schemes.names, *architectures.names]).lstrip("; ")
        )
        raise SchemenetError(f"words: {word!r} {hint or 'is unknown'} (words: {', '.join(words)})")
    return [Choice(word, name) for name in sorted(found)]


def schemes_name(word: str) -> str:
    """A word's canonical scheme name, or the word itself where it is none (``ode_net``)."""
    schemes = catalogue("scheme")
    return schemes.canonical(word) if word in schemes.names else word


def parse_budget(budget: str | float | None) -> int | None:
    """``0.22M``, ``220k``, ``220000`` as a number of parameters."""
    if budget is None:
        return None
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([kKmM]?)\s*", str(budget))
    value = float(found[1]) * {"": 1, "k": 1e3, "m": 1e6}[found[2].lower()] if found else 0
    if value < 1:
        raise SchemenetError(f"budget: expected a number of parameters such as 0.22M, 220k or 220000, got {budget!r}")
    return round(value)
