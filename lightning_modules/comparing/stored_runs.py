"""Run folders on the disk, found below given folders, with their configs as dotted keys.

The folders may come from other people: what is in them is read as data, and shown as text.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.config.resolved import NOT_RECIPE, dotted
from lightning_modules.storage.atomic_files import LONGEST_NAME, read_json
from lightning_modules.storage.run_files import COMPARISON, CONFIG, FAILURE, JOB, RESULT, TUNING
from lightning_modules.text import printable
from schemes.errors import SchemenetError

TRACES = (CONFIG, JOB, FAILURE)  # what a run leaves, even one that never started
LONGEST_VALUE = 40
ABSENT = "null"

FlatConfig = dict[str, str]
"""A config as dotted keys and JSON texts, without null values and without keys that do not change the result."""


@dataclass(frozen=True)
class StoredRun:
    """A run folder with its seed and config; ``arm`` is its network's name in the comparison that trained it."""

    folder: Path
    seed: int
    config: FlatConfig
    arm: str | None = None


def find_runs(folders: Sequence[Path]) -> tuple[list[StoredRun], list[str]]:
    """The runs in and below the folders, each once, and a remark on every folder that should hold one and does not."""
    runs, remarks, seen = [], [], set()
    for folder in folders:
        if not folder.exists():
            hint = "; nothing is trained here, so KEY=VALUE is not taken" if "=" in folder.name else ""
            raise SchemenetError(f"--runs: there is no folder {str(folder)!r}{hint}")
        places = list(_run_folders(folder)) if folder.is_dir() else []
        if not places:
            remarks.append(f"{folder}: no run in it (no {CONFIG}).")
        for place in places:
            if place.resolve() in seen:
                continue
            seen.add(place.resolve())
            try:
                runs.append(_read(place))
            except (SchemenetError, RecursionError) as error:
                remarks.append(f"NOT COUNTED: {printable(str(error))}")
    if not runs:
        raise SchemenetError("\n".join(["--runs: no run that can be read", *remarks]))
    return runs, remarks


def shown(value: str) -> str:
    """A JSON text as people write it: a name without quotes."""
    plain = json.loads(value) if value.startswith('"') else value
    return printable(plain, LONGEST_VALUE)


def within(key: str, groups: Sequence[str]) -> bool:
    """Whether a dotted key is one of some keys, or below one."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def _run_folders(folder: Path) -> Iterator[Path]:
    """Folders that hold a run or traces of one. Of a comparison these are its arms' seeds, and nothing else in it."""

    def refuse(error: OSError) -> None:
        raise SchemenetError(f"--runs: cannot read {error.filename}: {error.strerror}")

    for place, inside, files in os.walk(folder, onerror=refuse):
        inside[:] = sorted(name for name in inside if name != TUNING)
        if any(name in files for name in TRACES):
            yield Path(place)
            inside.clear()
        elif COMPARISON in files:
            yield from (path for path in sorted(Path(place).glob("*/seed*")) if path.is_dir())
            inside.clear()


def _read(folder: Path) -> StoredRun:
    path = folder / CONFIG
    if not path.is_file():
        raise SchemenetError(f"{folder} holds no {CONFIG}: a run that never started")
    config = read_json(path)
    flat = {
        printable(key): json.dumps(value, sort_keys=True)
        for key, value in dotted(config)
        if value not in (None, {}) and not within(key, NOT_RECIPE)
    }
    for key in ("architecture.name", "scheme.name", "data.name"):
        if re.fullmatch(r'"\w[\w.\-]*"', flat.get(key, '"-"' if key.startswith("arch") else '"x"')) is None:
            raise SchemenetError(f"{path}: {key} is no name: {shown(flat.get(key, ABSENT))}")
    seed = config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise SchemenetError(f"{path}: seed is no number: {shown(json.dumps(seed))}")
    return StoredRun(folder, seed, flat, _arm_of(folder))


def _arm_of(folder: Path) -> str | None:
    """The arm as which a run was trained, where its folder says so."""
    for name in (RESULT, JOB):
        with contextlib.suppress(SchemenetError):
            arm = read_json(folder / name).get("arm")
            if isinstance(arm, str) and re.fullmatch(r"\w[\w.,=+\- ]*", arm) and len(arm) <= LONGEST_NAME:
                return arm
    return None
