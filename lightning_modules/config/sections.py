"""Schemas of the config sections ``budget`` and ``tune``. Read before torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from architectures.costs.budget import parse_budget
from lightning_modules.config.network_names import parse_seeds
from schemes.errors import Problems, SchemenetError, not_taken
from schemes.schema import objection, parameters_of

FIRST_TUNING_SEED = 1000


@dataclass(frozen=True)
class Tuning:
    """Tuning runs: each learning rate with each seed.

    Args:
        lr: learning rates, ascending.
        seeds: how many, counted from 1000 without those of the comparison; or a list of them.
        validation: share of the training set that is the validation split.
        max_epochs: of a tuning run; None for the recipe's.
    """

    lr: tuple[float, ...]
    seeds: int | tuple[int, ...]
    validation: float
    max_epochs: int | None

    def settled(self, taken: Sequence[int], epochs: int) -> Tuning:
        """The same with seeds and epochs as numbers.

        Args:
            taken: the seeds of the comparison.
            epochs: of its recipe.
        """
        return replace(self, seeds=self.disjoint_seeds(taken), max_epochs=self.max_epochs or epochs)

    def disjoint_seeds(self, taken: Sequence[int]) -> tuple[int, ...]:
        """The seeds of the tuning runs. Raises SchemenetError for seeds of the comparison, ``taken``."""
        if isinstance(self.seeds, int):
            free = (s for s in range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + len(taken) + self.seeds) if s not in taken)
            return tuple(seed for seed, _ in zip(free, range(self.seeds), strict=False))
        if both := sorted({*self.seeds} & {*taken}):
            raise SchemenetError(
                f"tune.seeds: {', '.join(map(str, both))} would be tuned on and compared; take others, or say how many"
            )
        return self.seeds


def tuning(
    *,
    lr: Sequence[float] = (),
    seeds: int | Sequence[int] = 2,
    validation: float = 0.1,
    max_epochs: int | None = None,
) -> Tuning:
    """The settings of equal tuning.

    Args:
        lr: different positive learning rates.
        seeds: a number of seeds, or a list of them.
        validation: share of the training set, in (0, 1).
        max_epochs: of a tuning run; None for the recipe's.

    Raises:
        SchemenetError: with every mistake, a line ``key: ...`` each.
    """
    problems = Problems()
    if not lr or not all(rate > 0 for rate in lr) or len(set(lr)) < len(lr):
        problems.add(f"lr: expected different positive learning rates such as [0.03, 0.1, 0.3], got {list(lr)}")
    problems.attempt(lambda: parse_seeds(seeds), "seeds: ")
    if not 0 < validation < 1:
        problems.add(f"validation: expected a share of the training set between 0 and 1, got {validation:g}")
    if max_epochs is not None and max_epochs < 1:
        problems.add(f"max_epochs: expected at least 1, got {max_epochs}")
    problems.raise_if_any()
    rates = tuple(sorted(map(float, lr)))
    return Tuning(rates, seeds if isinstance(seeds, int) else tuple(seeds), validation, max_epochs)


SECTIONS: Mapping[str, Callable[..., Any]] = {"budget": parse_budget, "tune": tuning}
"""Keys of a comparison that have keys of their own: those of the function's signature."""

SHORT = {"budget": "target"}
"""What a plain value of such a key stands for: ``budget=0.22M`` is ``budget.target=0.22M``."""


def section(key: str, value: Any) -> Any:
    """The budget or the tuning that a config section describes.

    Args:
        key: ``budget`` or ``tune``.
        value: the section as composed; None is no section.

    Returns:
        A ``Budget`` or a ``Tuning``; None without a section.

    Raises:
        SchemenetError: with every mistake, a line ``budget.kind: ...`` each.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        if key not in SHORT:
            raise SchemenetError(
                f"{key}: expected keys of its own such as {key}.{next(iter(keys_of(key)))}, got {value!r}"
            )
        value = {SHORT[key]: value}
    problems, keys = Problems(), keys_of(key)
    problems.add(*(not_taken(key, name, keys) for name in value if name not in keys))
    objections = {name: objection(given, keys[name].annotation) for name, given in value.items() if name in keys}
    wrong_types = {name: problem for name, problem in objections.items() if problem is not None}
    problems.add(*(f"{key}.{name}: {problem}" for name, problem in wrong_types.items()))
    try:
        made = SECTIONS[key](**{name: value[name] for name in objections if name not in wrong_types})
    except SchemenetError as error:
        # Of a value of the wrong type its objection is enough: the function saw the default.
        problems.add(*(f"{key}.{line}" for line in str(error).splitlines() if line.split(":")[0] not in wrong_types))
        raise problems.error() from error
    problems.raise_if_any()
    return made


def keys_of(key: str) -> Mapping[str, Any]:
    """The keys of a section, from the signature of the function that reads it."""
    return parameters_of(SECTIONS[key])
