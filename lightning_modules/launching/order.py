"""One run to do, handed over by a file to the process that does it."""

from __future__ import annotations

import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.composing import Config
from lightning_modules.files import read_json, write_json, write_text
from lightning_modules.launching.leash import leashed
from lightning_modules.launching.lock import locked
from lightning_modules.running import DONE, FAILED, PROGRESS, RESULT, Held, held_run, recipe_hash, told_error, train
from schemes.errors import SchemenetError

ORDER, LOG, ERROR = "run.json", "log.txt", "error.txt"


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
        return held_run(self.folder) == Held(recipe_hash(self.config), self.config["seed"], finished=True)

    def write(self) -> Path:
        """The file that tells a process of its own what to do."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ERROR).unlink(missing_ok=True)
        write_json(self.folder / ORDER, {"config": self.config, "arm": self.arm, "group": self.group})
        return self.folder / ORDER

    def share_done(self) -> float:
        """How much of the training is behind it, between 0 and 1."""
        try:
            state = read_json(self.folder / PROGRESS)
            return min(1.0, state["step"] / state["steps"])
        except (SchemenetError, KeyError):
            return 0.0

    def note_failure(self, reason: str) -> None:
        """A process that died without a word still gets its reason on file."""
        path = self.folder / ERROR
        if not self.done and not path.exists():
            write_text(path, f"{reason}; see {self.folder / LOG}\n")

    def outcome(self) -> str:
        """What became of it, in a few words."""
        if not self.done:
            try:
                return f"FAILED, {(self.folder / ERROR).read_text(encoding='utf-8').strip().splitlines()[-1]}"
            except (OSError, IndexError):
                return "FAILED"
        result = read_json(self.folder / RESULT)
        if result["status"] != DONE:
            return f"diverged {result['reason']}" if "reason" in result else "diverged"
        return told_error(result)


def command(order: Order, *options: str) -> list[str]:
    """What runs an order in a process of its own."""
    return [sys.executable, "-m", "lightning_modules", "run-file", *options, str(order.write())]


def told_death(status: int) -> str:
    """The exit status of a process in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def run_file(arguments: list[str]) -> int:
    """``run-file [--leash] FILE``: do one run; with a leash, end when the process that holds standard input does."""
    *options, file = arguments
    if "--leash" in options:
        leashed(sys.stdin.fileno())
    path = Path(file)
    order = read_json(path)
    folder = path.parent
    try:
        name = f"{order['group']}-{order['arm']}-s{order['config']['seed']}"
        with locked(folder):
            result = train(order["config"], folder, name=name, group=order["group"], arm=order["arm"])
        if result["status"] == FAILED:
            raise SchemenetError(result["reason"])
    except Exception as error:
        traceback.print_exc()
        told = str(error).strip().splitlines() or [""]
        write_text(folder / ERROR, f"{type(error).__name__}: {told[-1]}\n")
        return 1
    return 0
