"""What a message has to name: the key, the value, the remedy. Its wording is free."""

from __future__ import annotations

from collections.abc import Sequence


def assert_lines(message: str | Sequence[str], *parts: tuple[str, ...]) -> None:
    """Each line of a message names all of its parts, and there are no other lines."""
    lines = message.splitlines() if isinstance(message, str) else list(message)
    assert len(lines) == len(parts), lines
    for line, expected in zip(lines, parts, strict=True):
        assert all(part in line for part in expected), (line, expected)
