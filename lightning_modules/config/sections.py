"""What a comparison is asked for beside its words: a budget, and tuning. Read before torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from architectures.costs.budget import parse_budget
from lightning_modules.config.network_names import parse_seeds
from schemes.errors import SchemenetError, not_taken
from schemes.schema import objection, parameters_of

FIRST_TUNING_SEED = 1000


@dataclass(frozen=True)
class Tuning:
    """Each learning rate with each seed, on what is left of the training set, for so many epochs (None: the recipe's).

    ``seeds`` is a number of seeds, counted from 1000 without those of the comparison, or a list of them.
    """

    lr: tuple[float, ...]
    seeds: int | tuple[int, ...]
    validation: float
    max_epochs: int | None

    def settled(self, taken: Sequence[int], epochs: int) -> Tuning:
        """The same with its seeds and epochs spelled out, for a comparison with these seeds and epochs."""
        return replace(self, seeds=self.seeds_beside(taken), max_epochs=self.max_epochs or epochs)

    def seeds_beside(self, taken: Sequence[int]) -> tuple[int, ...]:
        """The seeds of the tuning runs, none of which may be one of the comparison's."""
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
    """Tuning from what a user says. Raises SchemenetError with every mistake, a line ``key: ...`` each."""
    wrong = []
    if not lr or not all(rate > 0 for rate in lr) or len(set(lr)) < len(lr):
        wrong.append(f"lr: expected different positive learning rates such as [0.03, 0.1, 0.3], got {list(lr)}")
    try:
        parse_seeds(seeds)
    except SchemenetError as error:
        wrong.append(f"seeds: {error}")
    if not 0 < validation < 1:
        wrong.append(f"validation: expected a share of the training set between 0 and 1, got {validation:g}")
    if max_epochs is not None and max_epochs < 1:
        wrong.append(f"max_epochs: expected at least 1, got {max_epochs}")
    if wrong:
        raise SchemenetError("\n".join(wrong))
    rates = tuple(sorted(map(float, lr)))
    return Tuning(rates, seeds if isinstance(seeds, int) else tuple(seeds), validation, max_epochs)


SECTIONS: Mapping[str, Callable[..., Any]] = {"budget": parse_budget, "tune": tuning}
"""Keys of a comparison that have keys of their own: those of the function's signature."""

SHORT = {"budget": "target"}
"""What a plain value of such a key stands for: ``budget=0.22M`` is ``budget.target=0.22M``."""


def section(key: str, value: Any) -> Any:
    """What ``budget=...`` or ``tune=...`` asks for; None where nothing. Every mistake is told, in full keys."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        if key not in SHORT:
            raise SchemenetError(
                f"{key}: expected keys of its own such as {key}.{next(iter(keys_of(key)))}, got {value!r}"
            )
        value = {SHORT[key]: value}
    wrong = [not_taken(key, name, keys_of(key)) for name in value if name not in keys_of(key)]
    known = {name: given for name, given in value.items() if name in keys_of(key)}
    for name, given in list(known.items()):
        if (problem := objection(given, keys_of(key)[name].annotation)) is not None:
            wrong.append(f"{key}.{name}: {problem}")
            del known[name]
    made = None
    try:
        made = SECTIONS[key](**known)
    except SchemenetError as error:
        lines = [f"{key}.{line}" for line in str(error).splitlines()]
        reported = {message.split(":")[0] for message in wrong}
        wrong += [line for line in lines if line.split(":")[0] not in reported]
    if wrong:
        raise SchemenetError("\n".join(dict.fromkeys(wrong)))
    return made


def keys_of(key: str) -> Mapping[str, Any]:
    """The keys of a section, by the signature of what reads it."""
    return parameters_of(SECTIONS[key])
