"""Runs a planned comparison: one process per run, some side by side, what is done is skipped, failures are kept."""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lightning_modules.comparing import report, screen
from lightning_modules.comparing.plan import Plan, make_plan
from lightning_modules.comparing.runs import read_comparison
from lightning_modules.composing import Config, writable
from lightning_modules.files import write_json
from lightning_modules.running import FAILED, PROGRESS, RESULT, Held, forget, held_run, recipe_hash, train, versions
from schemes.errors import SchemenetError

ORDER, LOG, ERROR, COMPARISON, STEP_TIME = (
    "run.json",
    "log.txt",
    "error.txt",
    "comparison.json",
    "step_time.json",
)


def compare(config: Config, command: Sequence[str]) -> int:
    """The whole command: plan, train, measure, report. Exit status 1 if a run failed."""
    plan = make_plan(config)
    document = plan.document(shlex.join(command), versions(), _machine())
    folder = Path(config["folder"] or _default_folder(plan, document))
    writable(folder)
    _claim(folder, document, config["overwrite"])
    print(plan.sizes_table(), end="\n\n", flush=True)
    orders = [
        Order(folder / arm.name / f"seed{seed}", {**arm.config, "seed": seed}, arm.name, folder.name)
        for seed in plan.seeds
        for arm in plan.arms
    ]
    failed = _train_all([order for order in orders if not order.done], len(orders), config["jobs"])
    _measure(plan, folder, max(1, _cores() // config["jobs"]))
    path = report.write(folder)
    print(screen.screen_table(read_comparison(folder)))
    print(f"\nreport: {path}")
    return 1 if failed else 0


@dataclass(frozen=True, eq=False)
class Order:
    """One run to do: its folder and all that its process needs to know, handed over by a file."""

    folder: Path
    config: Config
    arm: str
    group: str

    @property
    def done(self) -> bool:
        return held_run(self.folder) == Held(recipe_hash(self.config), self.config["seed"], finished=True)

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.config['seed']}"

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ERROR).unlink(missing_ok=True)
        write_json(self.folder / ORDER, {"config": self.config, "arm": self.arm, "group": self.group})
        return self.folder / ORDER

    def share_done(self) -> float:
        """How much of the training is behind it, between 0 and 1."""
        try:
            state = json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
            return min(1.0, state["step"] / state["steps"])
        except (OSError, ValueError, KeyError):
            return 0.0


def run_file(path: Path) -> int:
    """One run, ordered by a file; what a comparison's processes execute."""
    order = json.loads(path.read_text(encoding="utf-8"))
    folder = path.parent
    try:
        name = f"{order['group']}-{order['arm']}-s{order['config']['seed']}"
        result = train(order["config"], folder, name=name, group=order["group"], arm=order["arm"])
        if result["status"] == FAILED:
            raise SchemenetError(result["reason"])
    except Exception as error:
        traceback.print_exc()
        told = str(error).strip().splitlines() or [""]
        (folder / ERROR).write_text(f"{type(error).__name__}: {told[-1]}\n", encoding="utf-8")
        return 1
    return 0


def _train_all(orders: list[Order], total: int, jobs: int) -> list[Order]:
    """Run the orders, ``jobs`` at a time; returns those that failed."""
    if len(orders) < total:
        print(f"{total - len(orders)} of {total} runs are done already")
    waiting, running, failed, finished = list(orders), {}, [], 0
    interactive = sys.stderr.isatty()
    bar = tqdm(
        total=len(orders),
        unit="run",
        disable=not interactive,
        bar_format="{l_bar}{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]{postfix}",
    )
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                order = waiting.pop(0)
                try:
                    running[order] = (_start(order, jobs), time.monotonic())
                except (OSError, SchemenetError) as error:  # a folder that cannot be made, no process to be had
                    failed.append(order)
                    finished += 1
                    bar.write(f"[{finished:>3}/{len(orders)}] {order.name}: FAILED to start, {error}", file=sys.stdout)
            time.sleep(0.2)
            for order, (process, begun) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[order]
                finished += 1
                if not order.done:
                    failed.append(order)
                    _note_failure(order, process.returncode)
                bar.write(
                    f"[{finished:>3}/{len(orders)}] {order.name}: {_outcome(order)} ({time.monotonic() - begun:.0f} s)",
                    file=sys.stdout,
                )
                sys.stdout.flush()
            bar.n = finished + sum(order.share_done() for order in running)
            bar.set_postfix_str(", ".join(f"{o.name} {100 * o.share_done():.0f}%" for o in running))
    finally:
        bar.close()
        for process, _ in running.values():
            _stop(process)
    return failed


def _start(order: Order, jobs: int) -> subprocess.Popen[bytes]:
    threads = str(max(1, _cores() // jobs))
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
    }
    # The packages may be run from a clone that is not installed, and the working directory is the user's.
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "lightning_modules", "run-file", str(order.write())]
    with (order.folder / LOG).open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,
        )  # fmt: skip


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _note_failure(order: Order, status: int) -> None:
    """A process that died without a word still gets its reason on file."""
    path = order.folder / ERROR
    if not path.exists():
        reason = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        path.write_text(f"{reason}; see {order.folder / LOG}\n", encoding="utf-8")


def _outcome(order: Order) -> str:
    if not order.done:
        return f"FAILED, {(order.folder / ERROR).read_text(encoding='utf-8').strip().splitlines()[-1]}"
    result = json.loads((order.folder / RESULT).read_text(encoding="utf-8"))
    if result["status"] != "done" or result["test_error"] is None:
        return f"diverged {result['reason']}" if "reason" in result else "diverged"
    return f"test error {100 * result['test_error']:.2f} %"


def _measure(plan: Plan, folder: Path, threads: int) -> None:
    """Step times of all arms, taking turns in this process when all training is done."""
    import torch

    from architectures.factory import create_model
    from architectures.ledger import step_times
    from lightning_modules.composing import network_options
    from lightning_modules.running import data_context, dry_build

    if all((folder / arm.name / STEP_TIME).exists() for arm in plan.arms):
        return
    print("measuring step times, all networks in turn", flush=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() and plan.recipe["trainer"]["accelerator"] != "cpu" else "cpu"
    data, _ = dry_build(plan.arms[0].config)
    networks = {
        arm.name: create_model(
            arm.config["architecture"]["name"], **data_context(data), **network_options(arm.config)
        ).to(device)
        for arm in plan.arms
    }
    for name, told in step_times(networks, tuple(data.shape), data.batch_size).items():
        writable(folder / name)
        write_json(folder / name / STEP_TIME, told)
    torch.set_num_threads(before)


def _claim(folder: Path, document: dict[str, Any], overwrite: bool) -> None:
    """Write the plan; a folder that holds another one is refused, so that recipes are never mixed."""
    path = folder / COMPARISON
    if path.exists() and not overwrite:
        held = json.loads(path.read_text(encoding="utf-8"))
        arms = {arm["name"]: arm.get("recipe") for arm in held["arms"]}
        different = [key for key in ("budget", "data", "epochs") if held.get(key) != document[key]]
        different += [arm["name"] for arm in document["arms"] if arms.get(arm["name"], arm["recipe"]) != arm["recipe"]]
        if different:
            raise SchemenetError(
                f"{folder} holds a comparison with another recipe (different: {', '.join(different)}); "
                "choose another folder=..., or overwrite=true to begin anew"
            )
    if overwrite:
        for old in folder.glob("*/seed*"):
            forget(old)
        for old in folder.glob(f"*/{STEP_TIME}"):
            old.unlink()
    write_json(path, document)


def _default_folder(plan: Plan, document: dict[str, Any]) -> Path:
    size = "as-published" if plan.budget is None else f"{plan.budget}"
    return Path("runs", "compare", f"{document['data']}-{size}-{document['recipe_hash']}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {_cores()} cores"
