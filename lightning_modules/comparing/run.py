"""Execution of a planned comparison: the runs that are not done yet, then step times, then the report."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from architectures.costs import budget as costs
from architectures.costs.ledger import step_times
from architectures.factory import create_model
from lightning_modules.comparing import tuning
from lightning_modules.comparing.plan import Plan, device_of, make_plan
from lightning_modules.comparing.records import read_comparison
from lightning_modules.comparing.report import terminal as screen
from lightning_modules.comparing.report import write as report
from lightning_modules.comparing.report.wandb import log_report
from lightning_modules.comparing.statistics.rule import RULE
from lightning_modules.config.registries import LAUNCHERS
from lightning_modules.config.resolved import ResolvedConfig, hash_of
from lightning_modules.config.sections import Tuning, section
from lightning_modules.config.validate import Config
from lightning_modules.launching import slurm
from lightning_modules.launching.job import Job
from lightning_modules.launching.progress import Watch
from lightning_modules.launching.run_lock import is_locked
from lightning_modules.loggers.wandb import settled
from lightning_modules.machine import cores, one_thread
from lightning_modules.metrics import measure_of
from lightning_modules.storage.atomic_files import read_json, remove_empty, writable, write_json
from lightning_modules.storage.run_files import COMPARISON, RESULT, STEP_TIMES, TUNING
from lightning_modules.text import Progress, plural, terminal_width
from lightning_modules.training.dry_run import dry_build
from lightning_modules.training.run_folder import clear_run, versions
from schemes.errors import SchemenetError, SolverError


def compare(config: ResolvedConfig, command: Sequence[str]) -> int:
    """The command ``compare``: train the named networks under one budget, and report.

    Args:
        config: the config of the command.
        command: the command line, for the report.

    Returns:
        The exit status: 1 if a run failed, else 0.
    """
    _, status = carry_out_comparison(config, shlex.join(command))
    return status


def carry_out_comparison(config: ResolvedConfig, command: str) -> tuple[Path, int]:
    """Plan a comparison and do it; returns its folder and the exit status. Arguments as of :func:`compare`."""
    folder = Path(config["folder"] or _default_folder(config))
    plan = make_plan(config, None if config["overwrite"] else _existing(folder))
    document = plan.document(command, versions(), machine())
    return folder, carry_out(plan, document, folder, config)


def carry_out(plan: Plan, document: dict[str, Any], folder: Path, config: ResolvedConfig) -> int:
    """Train the planned runs that are not done yet, measure step times, and write the report.

    Where the launcher rejects the runs, the folder is left as it was.

    Args:
        plan: arms, seeds and recipe.
        document: the content of comparison.json.
        folder: of the comparison; the runs are in FOLDER/ARM/seedN.
        config: the config of the command, for its launcher, logger and ``overwrite``.

    Returns:
        The exit status: 1 if a run failed, else 0.
    """
    LAUNCHERS.build(config["launcher"], runs=[], watch=Watch([]))  # what can be known before the folder is touched
    previous = None if config["overwrite"] else _existing(folder)
    writable(folder)
    _prepare_folder(folder, document, config["overwrite"])
    existing = _run_folders(folder)
    try:
        return _carry_out(plan, document, folder, config)
    except SchemenetError:
        runs = _run_folders(folder)
        if previous is not None and runs == existing:
            write_json(folder / COMPARISON, previous)
        elif previous is None and not runs:
            (folder / COMPARISON).unlink(missing_ok=True)
            remove_empty(folder)
        raise


def _carry_out(plan: Plan, document: dict[str, Any], folder: Path, config: ResolvedConfig) -> int:
    print(plan.sizes_table(), end="\n\n", flush=True)
    logger = settled(config["logger"], folder)
    plan = replace(plan, arms=tuple(replace(arm, config=arm.config.replace(logger=logger)) for arm in plan.arms))
    planned = len(plan.arms)
    if plan.tuning is not None:
        plan = _tune(plan, plan.tuning, document, folder, config["launcher"])
    jobs = [
        Job(folder / arm.name / f"seed{seed}", arm.config.replace(seed=seed), arm.name, folder.name, arm.ledger)
        for seed in plan.seeds
        for arm in plan.arms
    ]
    launch(jobs, config["launcher"])
    _measure(plan, folder)
    _time_the_target(plan, folder)
    path = report.write(folder)
    log_report(folder, folder.name, logger)
    print(screen.screen_table(read_comparison(folder), terminal_width()))
    print(f"\nreport: {path}")
    print(
        f"next: open it; the same command with more seeds keeps these runs, e.g. {_more_seeds(plan, document['kind'])}"
    )
    return 0 if len(plan.arms) == planned and all(job.done for job in jobs) else 1


def _more_seeds(plan: Plan, kind: str) -> str:
    """The word by which a comparison or a sweep gets as many seeds as a claim takes, or more."""
    rivals = sum(not arm.control for arm in plan.arms) - 1
    seeds = max(len(plan.seeds) + 1, RULE.seeds_for_claims(max(1, rivals)))
    return f"'seed=range({seeds})'" if kind == "sweep" else f"seeds={seeds}"


def _tune(plan: Plan, settings: Tuning, document: dict[str, Any], folder: Path, launcher: Config) -> Plan:
    """Do the tuning runs, and store the chosen learning rates; the plan of the arms whose tuning is complete."""
    rates = plural(len(settings.lr), "learning rate")
    print(f"tuning {rates} on {settings.validation:.3g} of the training set, held out")
    launch(tuning.jobs(plan, settings, folder), launcher)
    errors = tuning.tried(plan, settings, folder)
    worst = measure_of(plan.recipe["data"]["name"]).worst
    chosen = tuning.choose(errors, worst)
    plan_of_all, plan = plan, tuning.tuned(plan, chosen)
    entries = {arm.name: arm.entry() for arm in (*plan_of_all.arms, *plan.arms)}
    entry = tuning.entry(settings, errors, chosen, worst)
    write_json(folder / COMPARISON, document | {"arms": list(entries.values()), "tuning": entry})
    print("\nlearning rates: " + ", ".join(f"{arm} {lr:g}" for arm, lr in chosen.items()))
    for arm in [arm for arm in entries if arm not in chosen]:
        print(f"{arm}: not all of its tuning runs are done, and it is not trained; the same command tries them again")
    print(*entry["notes"], sep="\n", end="\n\n", flush=True)
    return plan


def launch(jobs: Sequence[Job], launcher: Config) -> None:
    """Do the runs that are not done yet, by a launcher as configured."""
    with Watch(jobs) as watch:
        LAUNCHERS.build(launcher, runs=[job for job in jobs if not job.done], watch=watch)


@one_thread()
def _measure(plan: Plan, folder: Path) -> None:
    """Measure step times of all arms in turn, in this process, after all training; none where no run is done."""
    counted = _counted_batches(plan, folder)
    if not counted or all((folder / arm.name / STEP_TIMES).exists() for arm in plan.arms):
        return
    progress = Progress(f"measuring step times of {plural(len(plan.arms), 'network')} in turn (some minutes at most)")
    device = device_of(plan.recipe)
    data, _ = dry_build(plan.arms[0].config)
    networks = {
        arm.name: create_model(arm.config["architecture"]["name"], **data.context, **arm.config.network_options).to(
            device
        )
        for arm in plan.arms
    }
    try:
        measured = step_times(networks, tuple(data.shape), min(counted), progress=progress)
    except (MemoryError, RuntimeError, SolverError) as error:  # what is trained is reported without them
        print(f"step times could not be measured: {(str(error).splitlines() or [type(error).__name__])[0]}")
        return
    for name, times in measured.items():
        writable(folder / name)
        write_json(folder / name / STEP_TIMES, times)


def _counted_batches(plan: Plan, folder: Path) -> list[int]:
    """The batch size for which the costs of each finished run were counted."""
    paths = [folder / arm.name / f"seed{seed}" / RESULT for arm in plan.arms for seed in plan.seeds]
    ledgers = [read_json(path)["ledger"] for path in paths if path.exists()]
    return [ledger["batch_size"] for ledger in ledgers]


def _time_the_target(plan: Plan, folder: Path) -> None:
    """Store the baseline's step time among those of all arms as the target of a budget of step time.

    The plan's was measured at another time, and step times do not repeat well.
    """
    measured = folder / plan.baseline / STEP_TIMES  # absent where the baseline's tuning has failed
    if plan.budget is not None and plan.budget.kind == costs.STEP_TIME and measured.exists():
        document = read_json(folder / COMPARISON)
        document["budget"]["target"] = read_json(measured)["median_s"]
        write_json(folder / COMPARISON, document)


def _prepare_folder(folder: Path, document: dict[str, Any], overwrite: bool) -> None:
    """Write the plan. Raises SchemenetError where the folder has another one, so that recipes are never mixed."""
    existing = None if overwrite else _existing(folder)
    if existing is not None:
        arms = {arm["name"]: arm.get("untuned", arm.get("recipe")) for arm in existing.get("arms", ())}
        different = [key for key in ("budget", "data", "epochs") if existing.get(key) != document[key]]
        if _of_tuning(existing) != _of_tuning(document):
            different.append("tune")
        different += [a["name"] for a in document["arms"] if arms.get(a["name"], a["untuned"]) != a["untuned"]]
        if different:
            raise SchemenetError(
                f"{folder} holds a comparison with another recipe (different: {', '.join(different)}); "
                "choose another folder=..., or overwrite=true to begin anew"
            )
    if overwrite:
        runs = _run_folders(folder)
        if busy := [str(run) for run in runs if is_locked(run)]:
            raise SchemenetError(f"overwrite: {', '.join(busy)} is being trained by another process; stop it first")
        slurm.refuse_unfinished(runs)
        for old in runs:
            clear_run(old)
        for old in folder.glob(f"*/{STEP_TIMES}"):
            old.unlink()
    write_json(folder / COMPARISON, document)


def _run_folders(folder: Path) -> list[Path]:
    """The run folders of a comparison, those of its tuning included."""
    return sorted((*folder.glob("*/seed*"), *folder.glob(f"*/{TUNING}/*")))


def _existing(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's comparison.json; None without one."""
    path = folder / COMPARISON
    return read_json(path) if path.exists() else None


def _of_tuning(document: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of the tuning, without its results."""
    stored = document.get("tuning")
    return None if stored is None else {f.name: json.loads(json.dumps(stored[f.name])) for f in fields(Tuning)}


def _default_folder(config: ResolvedConfig) -> Path:
    """A folder below runs/, named by the config but for the seeds, so that more seeds go into the same folder."""
    options = {key: value for key, value in config.items() if key not in ("launcher", "seeds")}
    budget = section("budget", config["budget"])
    size = "as-published" if budget is None else f"{budget.kind}-{budget.goal}"
    return Path("runs", "compare", f"{config['data']['name']}-{size}-{hash_of(options)}")


def machine() -> str:
    """A line about this machine, from which the runs are started."""
    return f"{platform.system()} {platform.machine()}, {cores()} cores"
