"""The description of a run for its loggers, and the base class of loggers that keep its result."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """The description of a run for its loggers.

    Attributes:
        key: the same for the same recipe and seed.
        name: of the run, for people.
        group: the comparison or sweep that the run is part of.
        tags: its network, data and size.
        config: the complete config.
    """

    key: str
    name: str
    group: str | None = None
    tags: Sequence[str] = ()
    config: Mapping[str, Any] | None = None


class RunLogger(abc.ABC):
    """What a logger implements in addition to Lightning's ``Logger`` to keep the result of a run and to end with it."""

    @abc.abstractmethod
    def conclude(self, result: Mapping[str, Any]) -> None:
        """Keep the content of ``result.json``, when the run is done or has stopped with a reason."""

    @abc.abstractmethod
    def finish(self) -> None:
        """End; without a result before, the run has failed."""


def measured(result: Mapping[str, Any]) -> dict[str, float]:
    """The measures in a result: ``test_error``, ``validation_loss`` ..."""
    return {k: v for k, v in result.items() if k.startswith(("test_", "validation_")) and v is not None}
