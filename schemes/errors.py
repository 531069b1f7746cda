"""What a user did wrong, told once and in full."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SchemenetError(ValueError):
    """A mistake in what the user asked for; its text names the value, what was expected and the nearest right thing.

    The command line prints the text and exits with status 2; from Python it is an ordinary ``ValueError``.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint ``"; did you mean 'x'?"``, or nothing where no known word is near."""
    close = difflib.get_close_matches(str(word), list(known), n=3, cutoff=0.55)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
