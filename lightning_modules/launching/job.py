"""Job description of one run, passed to its worker process as JSON.

Torch is imported by the functions that do a run or read its result: a process that only waits does without.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.launching.parent_death import exit_with_parent
from lightning_modules.launching.run_lock import is_locked, locked
from lightning_modules.storage.atomic_files import read_json, remove_empty, write_json, write_text
from lightning_modules.storage.run_files import FAILURE, JOB, LOG, PROGRESS, RESULT
from schemes.errors import SchemenetError
from schemes.plugins import import_modules


@dataclass(frozen=True, eq=False)
class Job:
    """One run of a comparison or sweep; its state is in its folder alone.

    Attributes:
        folder: the run folder.
        config: the resolved config.
        arm: the name of the network in the comparison.
        group: the name of the comparison or sweep.
        ledger: its costs, where they are known already.
    """

    folder: Path
    config: ResolvedConfig
    arm: str
    group: str
    ledger: Mapping[str, int] | None = None

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.config['seed']}"

    @property
    def done(self) -> bool:
        from lightning_modules.training.run_folder import ExistingRun, find_run

        return find_run(self.folder) == ExistingRun(self.config.recipe_hash, self.config["seed"], finished=True)

    def write(self) -> Path:
        """Write the job file, which a worker process reads; returns its path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FAILURE).unlink(missing_ok=True)
        known = {"arm": self.arm, "group": self.group, "ledger": self.ledger}
        write_json(self.folder / JOB, {"config": dict(self.config), **known})
        return self.folder / JOB

    def withdraw(self) -> None:
        """Remove what `write` has written, for a launcher that cannot begin the run."""
        (self.folder / JOB).unlink(missing_ok=True)
        remove_empty(self.folder, self.folder.parent)

    def log_size(self) -> int:
        """Bytes of its log, to which each of its processes writes when it begins."""
        try:
            return (self.folder / LOG).stat().st_size
        except OSError:
            return 0

    def progress(self) -> float:
        """The share of the training that is done, between 0 and 1."""
        try:
            state = read_json(self.folder / PROGRESS)
            return min(1.0, state["step"] / state["steps"])
        except (SchemenetError, KeyError):
            return 0.0

    @property
    def finished(self) -> bool:
        """Whether it is done, or has failed."""
        return self.done or (self.folder / FAILURE).exists()

    def record_failure(self, reason: str) -> None:
        """Write the reason of a failure, unless the process itself has written one."""
        path = self.folder / FAILURE
        if not self.done and not path.exists():
            write_text(path, f"{reason}; see {self.folder / LOG}\n")

    def outcome(self) -> str:
        """Its result in a few words."""
        from lightning_modules.training.run_folder import DONE, describe_error

        if not self.done:
            try:
                return f"FAILED, {(self.folder / FAILURE).read_text(encoding='utf-8').strip().splitlines()[-1]}"
            except (OSError, IndexError):
                return "FAILED"
        result = read_json(self.folder / RESULT)
        if result["status"] != DONE:
            return f"diverged {result['reason']}" if "reason" in result else "diverged"
        return describe_error(result)


def devices_of_a_run(jobs: Iterable[Job]) -> int:
    """The largest number of devices on one machine that a run requests; "auto" counts as one."""
    requested = [str(job.config["trainer"]["devices"]) for job in jobs]
    return max([1, *(int(devices) for devices in requested if devices.isdigit())])


def read_job(file: Path) -> Job:
    """The job whose file lies in a run's folder."""
    stored = read_json(file)
    return Job(file.parent, ResolvedConfig(stored["config"]), stored["arm"], stored["group"], stored.get("ledger"))


def run_file(arguments: list[str]) -> int:
    """``run-file [--leash] FILE``: do one run.

    Where another process has locked the run folder (one that is ending, or one of the same command given twice), this
    one waits, and does what the other has left undone.

    Args:
        arguments: the job file, with ``--leash`` before it to end with the process at the other end of standard input.

    Returns:
        The exit status: 0, or 1 where the run has failed; the reason is then in the folder.
    """
    *options, file = arguments
    if "--leash" in options:
        exit_with_parent(sys.stdin.fileno())
    from lightning_modules.launching.multi_process import train
    from lightning_modules.training.run_folder import FAILED

    job = read_job(Path(file))
    folder = job.folder
    try:
        import_modules(job.config.get("imports", ()))
        name = f"{job.group}-{job.arm}-s{job.config['seed']}"
        if is_locked(folder):
            print(f"{folder} is locked by another process; waiting for it", flush=True)
        with locked(folder, patience=math.inf):
            result = train(job.config, folder, name=name, group=job.group, arm=job.arm, ledger=job.ledger)
        if result["status"] == FAILED:
            raise SchemenetError(result["reason"])
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        write_text(folder / FAILURE, f"{type(error).__name__}: {lines[-1]}\n")
        return 1
    return 0
