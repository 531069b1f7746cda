"""The grid of a sweep: keys with several values, in Hydra's grammar or in a yaml file."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.config.compose import choices, compose, for_command_line_only, from_command_line
from lightning_modules.config.network_names import MOST_RUNS
from lightning_modules.config.overrides import parse, repeated, takes_text_only, written
from lightning_modules.config.resolved import ResolvedConfig, dotted
from lightning_modules.config.static_registry import REGISTRIES
from lightning_modules.config.validate import RECIPES
from lightning_modules.config.yaml_text import read_yaml
from lightning_modules.storage.atomic_files import safe_name
from schemes.errors import Problems, SchemenetError

SEED = "seed"
NOT_SWEPT = {
    **dict.fromkeys(("folder", "overwrite", "launcher", "logger"), "it belongs to the sweep as a whole"),
    "data": "errors on different data are not compared; begin one sweep for each",
    "data.name": "errors on different data are not compared; begin one sweep for each",
    "data.limit_test": "errors on different test sets are not compared; begin one sweep for each",
}


@dataclass(frozen=True)
class Grid:
    """The words that all runs share (``fixed``), and the keys that have several values (``axes``)."""

    fixed: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]

    def arms(self) -> Iterator[dict[str, str]]:
        """Every combination of values but for the seeds, the last key's changing fastest."""
        keys = [key for key in self.axes if key != SEED]
        for values in itertools.product(*(self.axes[key] for key in keys)):
            yield dict(zip(keys, values, strict=True))

    def label(self, arm: Mapping[str, str]) -> str:
        """A combination as people read it: ``rk2,depth=20``. Keys are shortened where they stay different."""
        ends = [key.rsplit(".", 1)[-1] for key in self.axes]
        parts = []
        for key, value in arm.items():
            end = key.rsplit(".", 1)[-1]
            short = key if ends.count(end) > 1 else end
            plain = re.sub(r"[\[\]{}'\" ]", "", value).replace(",", "-")
            parts.append(plain if key in ("scheme", "architecture") else f"{short}={plain}")
        return ",".join(parts)


def compose_grid(words: Sequence[str], config_dir: str | None = None) -> tuple[Grid, dict[str, ResolvedConfig]]:
    """The grid of the words after ``schemenet sweep``, and the config of every arm by its name. Torch is not imported.

    Args:
        words: of the command line; the first may be a yaml file.
        config_dir: a folder with yaml files of the user.

    Raises:
        SchemenetError: with every mistake in any of them.
    """
    problems = Problems()
    grid = _read(words, problems, config_dir)
    configs: dict[str, ResolvedConfig] = {}
    if (runs := math.prod(map(len, grid.axes.values()))) > MOST_RUNS:
        problems.add(f"sweep: expected at most {MOST_RUNS:,} runs, got {runs:,}")
        problems.raise_if_any()
    for arm in grid.arms():
        overrides = [f"{key}={value}" for key, value in arm.items()]
        name = safe_name(grid.label(arm))
        if name in configs:
            problems.add(f"two arms would both be called {name}; the second is {' '.join(overrides)}")
        config = problems.attempt(lambda words=[*grid.fixed, *overrides]: compose("sweep", words, config_dir))
        if config is not None:
            configs[name] = config
    problems.raise_if_any()
    return grid, configs


def _read(words: Sequence[str], problems: Problems, config_dir: str | None) -> Grid:
    """The grid; the first word may be a yaml file."""
    words = list(words)
    entries: dict[str, str] = {}
    if words and ("=" not in words[0] or Path(words[0]).is_file()):
        entries |= _of_file(Path(words.pop(0)))
    problems.add(*repeated(words))
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            problems.add(f"cannot read {word!r}; expected key=value, e.g. scheme=heun,rk4 or 'seed=range(5)'")
            continue
        # An arm's name has commas and equals signs in it, and is one value.
        entries[key] = written(value) if key == "baseline" and value[:1] not in ("'", '"') else value
    fixed: list[str] = []
    axes: dict[str, tuple[str, ...]] = {}
    for key, value in entries.items():
        try:
            values = _values(key, value, config_dir)
        except SchemenetError as error:
            problems.add(str(error))
            continue
        if values is None:
            fixed.append(f"{key}={value}")
        elif key in NOT_SWEPT or key.startswith("launcher."):
            problems.add(f"{key}: cannot be swept; {NOT_SWEPT.get(key, NOT_SWEPT['launcher'])}")
        else:
            axes[key] = values
    if not axes and not problems:
        problems.add("sweep: no key has several values; e.g. scheme=forward_euler,rk4 'seed=range(5)'")
    return Grid(tuple(fixed), axes)


def _values(key: str, value: str, config_dir: str | None) -> tuple[str, ...] | None:
    """The values of a word, each once; None for a single one."""
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep

    try:
        override = parse(f"{key}={value}", "scheme=heun,rk4 or 'seed=range(5)' or 'scheme=glob(rk*)'")
    except SchemenetError:
        if takes_text_only(key):  # one text, which is looked at where the arm is composed
            return None
        raise
    if not override.is_sweep_override():
        return None
    read = override.value()
    if isinstance(read, IntervalSweep):
        raise SchemenetError(
            f"{key}={value}: an interval has no end of values; name some, or write range(start,stop,step)"
        )
    if isinstance(read, Glob):
        return _matching(key, read, config_dir)
    if isinstance(read, RangeSweep) and not _few(read):
        raise SchemenetError(
            f"{key}={value}: expected range(stop) or range(start,stop,step), at most {MOST_RUNS:,} values, a step not 0"
        )
    values = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not values:
        raise SchemenetError(f"{key}={value}: there is no value in it")
    return values


def _few(sweep: Any) -> bool:
    """Whether a range is finite, and has not too many values."""
    numbers = (sweep.start, sweep.stop, sweep.step)
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers) or sweep.step == 0:
        return False
    return (sweep.stop - sweep.start) / sweep.step <= MOST_RUNS


def _matching(key: str, glob: Any, config_dir: str | None) -> tuple[str, ...]:
    """The choices of a group that match a pattern, each once: aliases do not count."""
    names = choices(key, config_dir, aliases=False) if key in (*REGISTRIES, *RECIPES) else []
    matching = tuple(glob.filter(names))
    if not matching:
        known = f"known: {', '.join(names)}" if names else "globs are for groups, as in scheme=glob(rk*)"
        raise SchemenetError(f"{key}: nothing matches {', '.join(glob.include)}; {known}")
    return matching


def _of_file(path: Path) -> dict[str, str]:
    """The words of a yaml file. A list has the values of a key; anything else is one value."""
    try:
        content = read_yaml(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise SchemenetError(
            f"{str(path)!r}: expected key=value, or first the name of a yaml file ({error.strerror})"
        ) from error
    except UnicodeDecodeError as error:
        raise SchemenetError(f"{path} cannot be read as yaml: {error}") from error
    if not isinstance(content, dict):
        raise SchemenetError(
            f"{path}: expected keys with values, as in\n  scheme: [forward_euler, rk4]\n  seed: range(5)"
        )
    pairs = [(key, _of_yaml(value)) for key, value in dotted(content) if value != {}]
    entries = dict(pairs)
    if len(pairs) > len(entries):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise SchemenetError(f"{path}: the key {twice!r} is given twice; leave one out")
    if odd := [key for key in entries if re.fullmatch(r"[\w.-]+", key) is None]:  # as Hydra's +folder
        raise SchemenetError(f"{path}: expected keys such as scheme or trainer.max_epochs, got {odd[0]!r}")
    if reserved := [key for key in entries if for_command_line_only(key)]:
        raise SchemenetError(from_command_line(reserved, str(path)))
    return entries


def _of_yaml(value: Any) -> str:
    """A value as it would follow a key's equals sign on the command line; a list is several values."""
    if isinstance(value, list):
        return ",".join(map(written, value))
    return value if isinstance(value, str) else written(value)
