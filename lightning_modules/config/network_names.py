"""The networks that words of the command line name. Read from the source, before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from architectures.registry import networks_matching
from lightning_modules.config.static_registry import static_registry
from schemes.errors import SchemenetError, nearest, unknown

LARGEST_SEED = 2**32 - 1  # what the random generators take
MOST_RUNS = 10_000
"""At most so many runs of one comparison or sweep, and seeds: a larger number is a slip."""


class Choice(NamedTuple):
    """A network of a comparison; ``scheme`` None is the architecture's default."""

    word: str
    architecture: str
    scheme: str | None = None

    @property
    def arm(self) -> str:
        """The name in tables and folders."""
        return self.architecture if self.scheme is None else f"{self.architecture}-{self.scheme}"


def networks_of(word: str) -> list[Choice]:
    """The networks that a word names.

    Args:
        word: a scheme or ``ode_net``, for its published networks; ``scheme:architecture`` for any other pair; or an
            architecture.
    """
    schemes, architectures = static_registry("scheme"), static_registry("architecture")
    if ":" in word:
        scheme, architecture = word.split(":", 1)
        for names, name in ((schemes, scheme), (architectures, architecture)):
            if name not in names:
                raise SchemenetError(f"{word!r}: {unknown(names.kind, name, names.all_names())}")
        if "scheme" not in architectures.options(architecture):
            raise SchemenetError(f"{word!r}: architecture {architecture!r} takes no scheme")
        return [Choice(word, architecture, schemes.canonical(scheme))]
    if word in architectures:
        return [Choice(word, word)]
    try:
        names = networks_matching(word, architectures, schemes)
    except SchemenetError as error:
        hint = nearest(word, architectures.all_names())
        raise SchemenetError(f"{error} (or an architecture{'; ' + hint if hint else ''})") from error
    if not names:
        raise SchemenetError(
            f"the scheme {word!r} is known as no network of its own; write scheme:architecture, e.g. {word}:resnet"
        )
    return [Choice(word, name) for name in names]


def controls() -> list[str]:
    """The names of the controls."""
    return [entry.name for entry in static_registry("architecture").families() if entry.facts.get("control")]


def parse_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """``3`` means 0, 1, 2; or a list of different seeds."""
    if (count := seeds if isinstance(seeds, int) else len(seeds)) > MOST_RUNS:
        raise SchemenetError(f"expected at most {MOST_RUNS:,} seeds, got {count:,}")
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= seed <= LARGEST_SEED for seed in numbers):
        raise SchemenetError(f"expected a positive number or a list of different seeds below 2^32, got {seeds!r}")
    return numbers
