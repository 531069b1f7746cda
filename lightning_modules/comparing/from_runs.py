"""``schemenet compare --runs FOLDER...``: a comparison of runs that are there already; nothing is trained.

Run folders may come from other people. What is in them is read as data and shown as text: it names no path that is
written to and no code that is run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_modules.comparing.records import Arm, Comparison, Run, read_run
from lightning_modules.comparing.report import terminal as screen
from lightning_modules.comparing.report import write as report
from lightning_modules.config.network_names import controls
from lightning_modules.config.resolved import NOT_RECIPE
from lightning_modules.config.validate import AXES
from lightning_modules.metrics import Measure, measure_of
from lightning_modules.storage.atomic_files import LONGEST_NAME, read_json, writable, write_json
from lightning_modules.storage.run_files import COMPARISON, CONFIG, FAILURE, JOB, RESULT
from lightning_modules.text import plural, printable, terminal_width
from schemes.errors import SchemenetError, unknown

NETWORK = ("architecture", *AXES, "sharing")
"""What the runs' networks may differ in; anything else is the recipe, which they share."""

SIZES = ("architecture.width", "architecture.widths", "architecture.inner")
"""What a budget sets: named last when arms are told apart."""

COMPARED = "compared.json"
TUNING = "tuning"  # the folder of an arm that holds the runs by which its learning rate was chosen
TRACES = (CONFIG, JOB, FAILURE)  # what a run leaves, even one that never started
LONGEST_VALUE = 40
LONGEST_COMMAND = 2000
ABSENT = "null"
TOLD = 10  # differing keys at most in one message

Flat = dict[str, str]
"""A config as dotted keys and JSON texts; what is null is left out, as are keys that do not change the result."""


def compare_runs(arguments: Sequence[str], command: str) -> int:
    """The whole command: read the runs, write the report, show the table."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--runs", nargs="+", action="extend", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--baseline")
    parser.add_argument("--by", default="")
    try:
        chosen, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise SchemenetError(f"compare --runs: {error}") from error
    if rest:
        raise SchemenetError(
            f"compare --runs: {rest[0]!r} is not understood; it trains nothing, and takes folders,"
            " --out FOLDER, --baseline ARM and --by KEY,..."
        )
    comparison = read_runs(chosen.runs, [key for key in chosen.by.split(",") if key], chosen.baseline)
    out = chosen.out or Path("runs", "compared", _digest(sorted(str(run.folder.resolve()) for run in comparison.runs)))
    if any((out / name).exists() for name in (COMPARISON, CONFIG)):
        raise SchemenetError(f"--out: {out} holds a comparison or a run of its own; choose another folder")
    writable(out)
    comparison = replace(comparison, folder=out, command=printable(command, LONGEST_COMMAND))
    write_json(out / COMPARED, _document(comparison))
    path = report.write_of(comparison)
    print(screen.screen_table(comparison, terminal_width()))
    print(f"\nreport: {path}")
    return 0


def read_runs(folders: Sequence[Path], by: Sequence[str] = (), baseline: str | None = None) -> Comparison:
    """The runs in and below some folders as a comparison. Raises SchemenetError where they cannot be compared.

    Arms are what the networks differ in, and the keys ``by``; runs pair by seed. A difference in any other key of the
    recipe is refused.
    """
    found, remarks = _find(folders)
    _check_by(found, by)
    _check_measured(found)
    shared = _shared_recipe(found, by)
    networks: dict[str, list[Found]] = {}
    for run in found:
        networks.setdefault(json.dumps(_of_the_arm(run.config, by), sort_keys=True), []).append(run)
    different = [_of_the_arm(runs[0].config, by) for runs in networks.values()]
    names = _known_as(list(networks.values()), _names(different))
    remarks.append(_differing(different))
    measure = _measure(found)
    arms, runs = [], []
    seeds = sorted({run.seed for run in found})
    for name, members in zip(names, networks.values(), strict=True):
        of_seed = _one_per_seed(name, members, remarks)
        read = [
            read_run(of_seed[seed], name, seed, measure, {"seed": seed})
            if seed in of_seed
            else Run(name, seed, "missing", "none of the folders holds it")
            for seed in seeds
        ]
        arms.append(_arm(name, members[0].config, read))
        runs += read
    return Comparison(
        folder=Path(),
        command="",
        budget=None,
        baseline=_baseline(arms, baseline),
        seeds=tuple(seeds),
        data=_shown(shared.get("data.name", '""')),
        epochs=_whole(shared.get("trainer.max_epochs")),
        recipe={key: _shown(value) for key, value in sorted(shared.items())},
        versions=_versions(runs),
        machine="",
        arms=tuple(arms),
        runs=tuple(runs),
        kind="runs",
        recipe_hash=_digest(shared),
        measure=measure,
        remarks=tuple(map(printable, remarks)),
    )


@dataclass(frozen=True)
class Found:
    folder: Path
    seed: int
    config: Flat
    arm: str | None = None
    """What the comparison or sweep that trained it calls its network; None where none did."""


def _find(folders: Sequence[Path]) -> tuple[list[Found], list[str]]:
    """The runs in and below the folders, each once, and a remark on every folder that should hold one and does not."""
    found, remarks, seen = [], [], set()
    for folder in folders:
        if not folder.exists():
            hint = "; nothing is trained here, so KEY=VALUE is not taken" if "=" in folder.name else ""
            raise SchemenetError(f"--runs: there is no folder {str(folder)!r}{hint}")
        inside = list(_run_folders(folder)) if folder.is_dir() else []
        if not inside:
            remarks.append(f"{folder}: no run in it (no {CONFIG}).")
        for place in inside:
            if place.resolve() in seen:
                continue
            seen.add(place.resolve())
            try:
                found.append(_read_config(place))
            except (SchemenetError, RecursionError) as error:
                remarks.append(f"NOT COUNTED: {printable(str(error))}")
    if not found:
        raise SchemenetError("\n".join(["--runs: no run that can be read", *remarks]))
    return found, remarks


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


def _read_config(folder: Path) -> Found:
    if not (folder / CONFIG).is_file():
        raise SchemenetError(f"{folder} holds no {CONFIG}: a run that never started")
    config = read_json(folder / CONFIG)
    flat = dict(_flattened(config))
    for key in ("architecture.name", "scheme.name", "data.name"):
        if re.fullmatch(r'"\w[\w.\-]*"', flat.get(key, '"-"' if key.startswith("arch") else '"x"')) is None:
            raise SchemenetError(f"{folder / CONFIG}: {key} is no name: {_shown(flat.get(key, ABSENT))}")
    seed = config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise SchemenetError(f"{folder / CONFIG}: seed is no number: {_shown(json.dumps(seed))}")
    return Found(folder, seed, flat, _arm_of(folder))


def _arm_of(folder: Path) -> str | None:
    """The arm as which a run was trained, where its folder says so."""
    for name in (RESULT, JOB):
        with contextlib.suppress(SchemenetError):
            arm = read_json(folder / name).get("arm")
            if isinstance(arm, str) and re.fullmatch(r"\w[\w.,=+\- ]*", arm) and len(arm) <= LONGEST_NAME:
                return arm
    return None


def _known_as(networks: Sequence[Sequence[Found]], names: Sequence[str]) -> list[str]:
    """The names that the networks had when they were trained, where those tell them apart; else the given ones."""
    had = [{run.arm for run in runs} for runs in networks]
    known = [next(iter(arms)) if len(arms) == 1 else None for arms in had]
    others = Counter([*filter(None, known), *names])
    return [
        arm if arm is not None and others[arm] == 1 + (arm == name) else name
        for arm, name in zip(known, names, strict=True)
    ]


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        name = prefix + key
        if name in NOT_RECIPE or value is None:
            continue
        if isinstance(value, dict):
            yield from _flattened(value, f"{name}.")
        else:
            yield printable(name), json.dumps(value, sort_keys=True)


def _check_by(found: Sequence[Found], by: Sequence[str]) -> None:
    known = {key for run in found for key in run.config}
    for key in by:
        if not any(_within(name, [key]) for name in known):
            raise SchemenetError(f"--by: {unknown('key', key, known)}")


def _check_measured(found: Sequence[Found]) -> None:
    """Runs with a validation split have read no test set; they are finished, and must not pass for diverged ones."""
    held_out = [str(run.folder) for run in found if "data.validation" in run.config]
    if held_out:
        raise SchemenetError(
            f"--runs: {plural(len(held_out), 'run')} held out data.validation and measured no test set; "
            f"leave {', '.join(held_out[:TOLD])}{' ...' if len(held_out) > TOLD else ''} out"
        )


def _measure(found: Sequence[Found]) -> Measure:
    """By what the runs are judged, which must be one thing."""
    by = {
        measure.key: measure for run in found for measure in [measure_of(json.loads(run.config.get("data.name", '""')))]
    }
    if len(by) > 1:
        raise SchemenetError(f"--runs: they are judged by {' and '.join(by)}, which cannot be compared")
    return next(iter(by.values()))


def _within(key: str, groups: Sequence[str]) -> bool:
    """Whether a dotted key is one of some keys, or below one."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def _of_the_arm(config: Flat, by: Sequence[str]) -> Flat:
    return {key: value for key, value in config.items() if _within(key, (*NETWORK, *by))}


def _shared_recipe(found: Sequence[Found], by: Sequence[str]) -> Flat:
    """What all runs have in common beside their networks; a difference is refused with its keys and values."""
    recipes = [{k: v for k, v in run.config.items() if not _within(k, (*NETWORK, *by))} for run in found]
    keys = sorted({key for recipe in recipes for key in recipe})
    wrong = []
    for key in keys:
        values = Counter(recipe.get(key, ABSENT) for recipe in recipes)
        if len(values) > 1:
            example = {recipe.get(key, ABSENT): run.folder for recipe, run in zip(recipes, found, strict=True)}
            told = ", ".join(f"{_shown(v)} in {n} of them ({example[v]})" for v, n in values.most_common(3))
            wrong.append(f"{key}: {told}")
    if wrong:
        beyond = [f"and {len(wrong) - TOLD} more"] if len(wrong) > TOLD else []
        raise SchemenetError(
            "\n".join(
                [
                    "--runs: these runs differ in more than their networks, and cannot be compared as they are",
                    *(f"  {line}" for line in [*wrong[:TOLD], *beyond]),
                    "choose runs of one recipe, or name what is to be compared: --by KEY,...",
                ]
            )
        )
    return recipes[0]


def _names(arms: Sequence[Flat]) -> list[str]:
    """Each arm's name: its architecture, and what tells it apart: "resnet-rk4", "resnet-rk4 depth=32"."""

    def architecture(arm: Flat) -> str:
        return _shown(arm["architecture.name"])

    schemes: dict[str, set[str | None]] = {}
    for arm in arms:
        schemes.setdefault(architecture(arm), set()).add(arm.get("scheme.name"))
    heads = []
    for arm in arms:
        scheme = arm.get("scheme.name") if len(schemes[architecture(arm)]) > 1 else None
        heads.append(architecture(arm) + (f"-{_shown(scheme)}" if scheme else ""))
    names = []
    for arm, head in zip(arms, heads, strict=True):
        alike = [other for other, of_other in zip(arms, heads, strict=True) if of_other == head]
        names.append(" ".join([head, *(_told(key, arm[key]) for key in _telling_apart(alike) if key in arm)]))
    repeated: Counter[str] = Counter()
    for i, name in enumerate(names):  # values that differ only beyond what is shown of them
        repeated[name] += 1
        names[i] = name if repeated[name] == 1 else f"{name} #{repeated[name]}"
    return names


def _telling_apart(arms: Sequence[Flat]) -> list[str]:
    """The fewest keys, taken in order, whose values are another combination in each arm."""
    keys = sorted({key for arm in arms for key in arm}, key=lambda key: (key in SIZES, not key.endswith(".name"), key))
    chosen: list[str] = []
    kinds = 1
    for key in keys:
        finer = len({tuple(arm.get(k) for k in (*chosen, key)) for arm in arms})
        if finer > kinds:
            chosen, kinds = [*chosen, key], finer
    return chosen


def _differing(arms: Sequence[Flat]) -> str:
    keys = {key for arm in arms for key in arm}
    found = sorted(key for key in keys if len({arm.get(key) for arm in arms}) > 1)
    return f"The arms differ in {', '.join(found)}." if found else "All runs are of one network and one recipe."


def _told(key: str, value: str) -> str:
    return f"{key.removeprefix('architecture.').removesuffix('.name')}={_shown(value)}"


def _shown(value: str) -> str:
    """A JSON text as people write it: a name without quotes."""
    plain = json.loads(value) if value.startswith('"') else value
    return printable(plain, LONGEST_VALUE)


def _one_per_seed(name: str, members: Sequence[Found], remarks: list[str]) -> dict[int, Path]:
    """The run of each seed. The same result found twice counts once; two different ones are refused."""
    places: dict[int, Path] = {}
    for run in members:
        if run.seed not in places:
            places[run.seed] = run.folder
        elif _same_result(places[run.seed], run.folder):
            remarks.append(f"{run.folder} has the same result as {places[run.seed]}: one run, taken once.")
        else:
            raise SchemenetError(
                f"--runs: two runs of {name} with seed {run.seed}: {places[run.seed]} and {run.folder}; leave one out"
            )
    return places


def _same_result(first: Path, second: Path) -> bool:
    try:
        results = [read_json(place / RESULT) for place in (first, second)]
    except SchemenetError:
        return False
    told = ["status", "epochs", "train_loss"]
    told += sorted({key for result in results for key in result if key.startswith("test_")})
    return all(key in result for result in results for key in told) and all(
        results[0][k] == results[1][k] for k in told
    )


def _arm(name: str, config: Flat, runs: Sequence[Run]) -> Arm:
    layout = next((run.layout for run in runs if run.layout), {})
    architecture = _shown(config["architecture.name"])
    return Arm(
        name=name,
        architecture=architecture,
        scheme=_shown(config.get("scheme.name") or json.dumps(str(layout.get("scheme") or ""))),
        control=architecture in controls(),
        sizes={printable(key): _size(value) for key, value in layout.items()},
    )


def _size(value: Any) -> Any:
    if isinstance(value, list):
        return [printable(str(item), LONGEST_VALUE) for item in value]
    return value if isinstance(value, int | float) or value is None else printable(str(value), LONGEST_VALUE)


def _baseline(arms: Sequence[Arm], chosen: str | None) -> str:
    """The arm asked for, or forward Euler's (of `resnet` first), or the first that is no control."""
    if chosen is not None:
        if chosen not in (names := [arm.name for arm in arms]):
            raise SchemenetError(f"--baseline: {unknown('arm', chosen, names)}")
        return chosen

    def rank(arm: Arm) -> tuple[bool, bool, bool]:
        return arm.control, arm.scheme != "forward_euler", arm.architecture != "resnet"

    return min(arms, key=rank).name


def _versions(runs: Sequence[Run]) -> dict[str, str]:
    """What the runs were trained with, all versions of each package."""
    packages = sorted({package for run in runs for package in run.versions})
    found = {p: sorted({str(run.versions[p]) for run in runs if p in run.versions}) for p in packages}
    return {package: " and ".join(versions) for package, versions in found.items()}


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,9}", text) else None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _document(comparison: Comparison) -> dict[str, Any]:
    """Which runs the report is of."""
    return {
        "command": comparison.command,
        "baseline": comparison.baseline,
        "recipe_hash": comparison.recipe_hash,
        "runs": {
            arm.name: {str(run.seed): str(run.folder) for run in comparison.of(arm.name) if run.folder != Path()}
            for arm in comparison.arms
        },
    }
