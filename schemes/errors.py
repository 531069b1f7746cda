"""Errors, and the sentences that name a mistake, what was expected and the nearest right name."""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class SchemenetError(ValueError):
    """A mistake in the user's input; its text names the value, what was expected and the nearest right thing.

    The command line prints the text and exits with status 2; from Python it is an ordinary ``ValueError``.
    """


class SolverError(SchemenetError):
    """A solve that could not continue; the text says where, why, and what to do. ``partial`` is the result so far.

    ``partial`` is a :class:`schemes.ivp.solution.Solution` at the output times that were passed, its ``status`` the
    kind of the error, or None where nothing was.
    """

    partial: Any = None


class NonFiniteError(SolverError):
    """f gave NaN or infinity, and no smaller step avoided it."""


class StepLimitError(SolverError):
    """The number of steps allowed was not enough."""


class TimeLimitError(SolverError):
    """The seconds allowed were not enough."""


class StepSizeError(SolverError):
    """The step size that the tolerance needs is too small to change this time."""


class FieldError(SolverError):
    """f is no function of (t, y) to a derivative of y: its shape, dtype, or two values at one point differ."""


class Problems:
    """A collector of mistakes, so that one error names all of them; ``prefix`` stands before each."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._messages: list[str] = []

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, *messages: str) -> None:
        """Add mistakes, a line or several each."""
        self._messages += [f"{self._prefix}{message}" for message in messages]

    def attempt(self, make: Callable[[], T], prefix: str = "") -> T | None:
        """The result of a call; None where it raises a SchemenetError, which is added."""
        try:
            return make()
        except SchemenetError as error:
            self.add(*(f"{prefix}{line}" for line in str(error).splitlines()))
            return None

    def error(self) -> SchemenetError:
        """One error with every mistake, each once."""
        return SchemenetError("\n".join(dict.fromkeys(self._messages)))

    def raise_if_any(self) -> None:
        """Raise :meth:`error` if there is a mistake."""
        if self._messages:
            raise self.error()


def located(error: BaseException) -> str:
    """An error of somebody else's module in one line, with the file and line of theirs that led to it."""
    here = f"{Path(__file__).parents[1]}{os.sep}"
    between = ("importlib", f"{os.sep}torch{os.sep}")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((here, "<")) and not any(part in frame.filename for part in between)
    ]
    place = f", {frames[-1].filename} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def nearest(word: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'?"``, or nothing where no known word is near. Parts between underscores count too."""

    def ratio(name: str) -> float:
        return difflib.SequenceMatcher(None, str(word).lower(), name.lower()).ratio()

    def likeness(name: str) -> float:
        return max(ratio(name), *(0.95 * ratio(part) for part in name.split("_")))

    ranked = sorted((-likeness(name), len(name), name) for name in set(known))
    close = [name for score, _, name in ranked if score <= -0.6 and score <= ranked[0][0] + 0.1][:3]
    return f"did you mean {' or '.join(map(repr, close))}?" if close else ""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence for an unknown name: kind, name, the near names and all of them."""
    known = list(known)
    hint = nearest(str(name), known)
    return f"no {kind} {name!r}; {hint + ' ' if hint else ''}known: {', '.join(known)}"


def not_taken(what: str, key: str, takes: Iterable[str]) -> str:
    """The sentence for a key that something does not take, with the near keys and all of them."""
    takes = list(takes)
    hint = nearest(key, takes)
    return f"{what} takes no {key!r}; {hint + ' ' if hint else ''}it takes: {', '.join(takes) or 'nothing'}"
