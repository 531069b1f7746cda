"""One run to do, handed over by a file to the process that does it.

Torch is imported by who does a run or judges it: a process that only waits for one does without.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.config.validate import Config
from lightning_modules.launching.parent_death import leashed
from lightning_modules.launching.run_lock import is_locked, locked
from lightning_modules.launching.subprocesses import LOG
from lightning_modules.storage.atomic_files import read_json, remove_empty, write_json, write_text
from schemes.errors import SchemenetError

ORDER, ERROR = "run.json", "error.txt"


@dataclass(frozen=True, eq=False)
class Order:
    """One run of a comparison or sweep; what became of it stands in its folder, and nowhere else."""

    folder: Path
    config: Config
    arm: str
    group: str

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.config['seed']}"

    @property
    def done(self) -> bool:
        from lightning_modules.training.run_folder import Held, held_run, recipe_hash

        return held_run(self.folder) == Held(recipe_hash(self.config), self.config["seed"], finished=True)

    def write(self) -> Path:
        """The file that tells a process of its own what to do."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ERROR).unlink(missing_ok=True)
        write_json(self.folder / ORDER, {"config": self.config, "arm": self.arm, "group": self.group})
        return self.folder / ORDER

    def withdraw(self) -> None:
        """Take back what `write` has written, for a launcher that cannot begin the run."""
        (self.folder / ORDER).unlink(missing_ok=True)
        remove_empty(self.folder, self.folder.parent)

    def log_size(self) -> int:
        """Bytes of its log, to which every process of it adds when it begins."""
        try:
            return (self.folder / LOG).stat().st_size
        except OSError:
            return 0

    def share_done(self) -> float:
        """How much of the training is behind it, between 0 and 1."""
        from lightning_modules.storage.run_files import PROGRESS

        try:
            state = read_json(self.folder / PROGRESS)
            return min(1.0, state["step"] / state["steps"])
        except (SchemenetError, KeyError):
            return 0.0

    @property
    def settled(self) -> bool:
        """Whether it is done, or has failed."""
        return self.done or (self.folder / ERROR).exists()

    def note_failure(self, reason: str) -> None:
        """A process that died without a word still gets its reason on file."""
        path = self.folder / ERROR
        if not self.done and not path.exists():
            write_text(path, f"{reason}; see {self.folder / LOG}\n")

    def outcome(self) -> str:
        """What became of it, in a few words."""
        from lightning_modules.storage.run_files import RESULT
        from lightning_modules.training.run_folder import DONE, told_error

        if not self.done:
            try:
                return f"FAILED, {(self.folder / ERROR).read_text(encoding='utf-8').strip().splitlines()[-1]}"
            except (OSError, IndexError):
                return "FAILED"
        result = read_json(self.folder / RESULT)
        if result["status"] != DONE:
            return f"diverged {result['reason']}" if "reason" in result else "diverged"
        return told_error(result)


def devices_of_a_run(orders: Iterable[Order]) -> int:
    """The most devices on one machine that a run asks for; one, where it leaves that to what it finds ("auto")."""
    asked = [str(order.config["trainer"]["devices"]) for order in orders]
    return max([1, *(int(devices) for devices in asked if devices.isdigit())])


def read_order(file: Path) -> Order:
    """The order that stands in a run's folder."""
    told = read_json(file)
    return Order(file.parent, told["config"], told["arm"], told["group"])


def run_file(arguments: list[str]) -> int:
    """``run-file [--leash] FILE``: do one run; with a leash, end when the process that holds standard input does.

    Where another process does that run, as one may that is ending, or that the same command given twice has begun, it
    is waited for: what it leaves undone is done here.
    """
    *options, file = arguments
    if "--leash" in options:
        leashed(sys.stdin.fileno())
    from lightning_modules.launching.multi_process import train
    from lightning_modules.training.run_folder import FAILED

    order = read_order(Path(file))
    folder = order.folder
    try:
        name = f"{order.group}-{order.arm}-s{order.config['seed']}"
        if is_locked(folder):
            print(f"{folder} is held by another process; waiting for it", flush=True)
        with locked(folder, patience=math.inf):
            result = train(order.config, folder, name=name, group=order.group, arm=order.arm)
        if result["status"] == FAILED:
            raise SchemenetError(result["reason"])
    except Exception as error:
        traceback.print_exc()
        told = str(error).strip().splitlines() or [""]
        write_text(folder / ERROR, f"{type(error).__name__}: {told[-1]}\n")
        return 1
    return 0
