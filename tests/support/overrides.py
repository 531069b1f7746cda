"""Words of a command line."""

from __future__ import annotations

from collections.abc import Sequence


def but(words: Sequence[str], *others: str) -> list[str]:
    """The words, with others in place of those for the same keys, which the command takes once only."""
    return list({word.split("=")[0]: word for word in (*words, *others)}.values())
