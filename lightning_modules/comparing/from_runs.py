"""``schemenet compare --runs FOLDER...``: a comparison of finished runs; nothing is trained.

Run folders may come from other people. What is in them is read as data and shown as text: it names no path that is
written to and no code that is run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_modules.comparing.arm_names import arm_names, differing_keys
from lightning_modules.comparing.records import Arm, Comparison, Run, read_run
from lightning_modules.comparing.report import terminal as screen
from lightning_modules.comparing.report import write as report
from lightning_modules.comparing.stored_runs import (
    ABSENT,
    LONGEST_VALUE,
    FlatConfig,
    StoredRun,
    find_runs,
    shown,
    within,
)
from lightning_modules.config.network_names import controls
from lightning_modules.config.resolved import hash_of
from lightning_modules.config.validate import OF_ONE_NETWORK
from lightning_modules.metrics import Measure, measure_of
from lightning_modules.storage.atomic_files import writable, write_json
from lightning_modules.storage.run_files import COMPARISON, CONFIG
from lightning_modules.text import plural, printable, terminal_width
from schemes.errors import SchemenetError, unknown

COMPARED = "compared.json"
LONGEST_COMMAND = 2000
MOST_KEYS = 10  # in one message


def compare_runs(arguments: Sequence[str], command: str) -> int:
    """The whole command: read the runs, write the report, show the table.

    Args:
        arguments: the words after ``schemenet compare``.
        command: the whole command line, which the report quotes.

    Returns:
        The exit status.
    """
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
    out = chosen.out or Path("runs", "compared", _hash_of_folders(comparison.runs))
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
    """The runs in and below some folders as a comparison, paired by seed.

    Args:
        folders: run folders, or folders that have some below them.
        by: dotted config keys, or groups of them, in which arms may differ as well as in their networks.
        baseline: the name of an arm. By default forward Euler's, or the first that is no control.

    Raises:
        SchemenetError: no run can be read, or they cannot be compared: they differ in another key of the recipe.
    """
    stored, remarks = find_runs(folders)
    _check_by(stored, by)
    _check_measured(stored)
    shared = _shared_recipe(stored, by)
    networks: dict[str, list[StoredRun]] = {}
    for run in stored:
        networks.setdefault(json.dumps(_network(run.config, by), sort_keys=True), []).append(run)
    configs = [_network(members[0].config, by) for members in networks.values()]
    names = arm_names(configs, [{run.arm for run in members} for members in networks.values()])
    different = ", ".join(differing_keys(configs))
    remarks.append(f"The arms differ in {different}." if different else "All runs are of one network and one recipe.")
    measure = _measure(stored)
    seeds = tuple(sorted({run.seed for run in stored}))
    arms: list[Arm] = []
    runs: list[Run] = []
    for name, config, members in zip(names, configs, networks.values(), strict=True):
        of_arm = _runs_of_arm(name, members, seeds, measure, remarks)
        arms.append(_arm(name, config, of_arm))
        runs += of_arm
    return Comparison(
        folder=Path(),
        command="",
        budget=None,
        baseline=_baseline(arms, baseline),
        seeds=seeds,
        data=shown(shared.get("data.name", '""')),
        epochs=_whole(shared.get("trainer.max_epochs", "")),
        recipe={key: shown(value) for key, value in sorted(shared.items())},
        versions=_versions(runs),
        machine="",
        arms=tuple(arms),
        runs=tuple(runs),
        kind="runs",
        recipe_hash=hash_of(shared),
        measure=measure,
        remarks=tuple(map(printable, remarks)),
    )


def _check_by(stored: Sequence[StoredRun], by: Sequence[str]) -> None:
    known = {key for run in stored for key in run.config}
    for key in by:
        if not any(within(name, [key]) for name in known):
            raise SchemenetError(f"--by: {unknown('key', key, known)}")


def _check_measured(stored: Sequence[StoredRun]) -> None:
    """Runs with a validation split have read no test set; they are finished, and must not pass for diverged ones."""
    untested = [str(run.folder) for run in stored if "data.validation" in run.config]
    if untested:
        raise SchemenetError(
            f"--runs: {plural(len(untested), 'run')} held out data.validation and measured no test set; "
            f"leave {', '.join(untested[:MOST_KEYS])}{' ...' if len(untested) > MOST_KEYS else ''} out"
        )


def _measure(stored: Sequence[StoredRun]) -> Measure:
    """By what the runs are judged, which must be one thing."""
    measures = {measure.key: measure for run in stored for measure in [measure_of(_data(run.config))]}
    if len(measures) > 1:
        raise SchemenetError(f"--runs: they are judged by {' and '.join(measures)}, which cannot be compared")
    return next(iter(measures.values()))


def _data(config: FlatConfig) -> str:
    return json.loads(config.get("data.name", '""'))


def _network(config: FlatConfig, by: Sequence[str]) -> FlatConfig:
    """The keys in which arms may differ; the others are the recipe, which all runs share."""
    return {key: value for key, value in config.items() if within(key, (*OF_ONE_NETWORK, *by))}


def _shared_recipe(stored: Sequence[StoredRun], by: Sequence[str]) -> FlatConfig:
    """The recipe of all runs; a difference is refused with its keys and values."""
    recipes = [{k: v for k, v in run.config.items() if not within(k, (*OF_ONE_NETWORK, *by))} for run in stored]
    differences = []
    for key in differing_keys(recipes):
        values = Counter(recipe.get(key, ABSENT) for recipe in recipes)
        example = {recipe.get(key, ABSENT): run.folder for recipe, run in zip(recipes, stored, strict=True)}
        counts = ", ".join(f"{shown(v)} in {n} of them ({example[v]})" for v, n in values.most_common(3))
        differences.append(f"  {key}: {counts}")
    if differences:
        more = len(differences) - MOST_KEYS
        raise SchemenetError(
            "\n".join(
                [
                    "--runs: these runs differ in more than their networks, and cannot be compared as they are",
                    *differences[:MOST_KEYS],
                    *([f"  and {more} more"] if more > 0 else []),
                    "choose runs of one recipe, or name what is to be compared: --by KEY,...",
                ]
            )
        )
    return recipes[0]


def _runs_of_arm(
    name: str, members: Sequence[StoredRun], seeds: Sequence[int], measure: Measure, remarks: list[str]
) -> list[Run]:
    """The run of each seed. The same result in two folders counts once; two different ones are refused."""
    runs: dict[int, Run] = {}
    for member in members:
        run = read_run(member.folder, name, member.seed, measure, {"seed": member.seed})
        first = runs.setdefault(member.seed, run)
        if first is run:
            continue
        if not first.has_result_of(run):
            raise SchemenetError(
                f"--runs: two runs of {name} with seed {run.seed}: {first.folder} and {run.folder}; leave one out"
            )
        remarks.append(f"{run.folder} has the same result as {first.folder}: one run, taken once.")
    return [runs.get(seed) or Run(name, seed, "missing", "none of the folders holds it") for seed in seeds]


def _arm(name: str, config: FlatConfig, runs: Sequence[Run]) -> Arm:
    layout = next((run.layout for run in runs if run.layout), {})
    architecture = shown(config["architecture.name"])
    return Arm(
        name=name,
        architecture=architecture,
        scheme=shown(config.get("scheme.name") or json.dumps(str(layout.get("scheme") or ""))),
        control=architecture in controls(),
        sizes={printable(key): _size(value) for key, value in layout.items()},
    )


def _size(value: Any) -> Any:
    if isinstance(value, list):
        return [printable(str(item), LONGEST_VALUE) for item in value]
    return value if isinstance(value, int | float) or value is None else printable(str(value), LONGEST_VALUE)


def _baseline(arms: Sequence[Arm], chosen: str | None) -> str:
    """The chosen arm, or forward Euler's (of `resnet` first), or the first that is no control."""
    if chosen is not None:
        if chosen not in (names := [arm.name for arm in arms]):
            raise SchemenetError(f"--baseline: {unknown('arm', chosen, names)}")
        return chosen

    def rank(arm: Arm) -> tuple[bool, bool, bool]:
        return arm.control, arm.scheme != "forward_euler", arm.architecture != "resnet"

    return min(arms, key=rank).name


def _versions(runs: Sequence[Run]) -> dict[str, str]:
    """What the runs were trained with, all versions of each package."""
    versions: dict[str, set[str]] = {}
    for run in runs:
        for package, version in run.versions.items():
            versions.setdefault(package, set()).add(str(version))
    return {package: " and ".join(sorted(versions[package])) for package in sorted(versions)}


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


def _hash_of_folders(runs: Sequence[Run]) -> str:
    folders = sorted(str(run.folder.resolve()) for run in runs)
    return hashlib.sha256(json.dumps(folders).encode()).hexdigest()[:8]


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
