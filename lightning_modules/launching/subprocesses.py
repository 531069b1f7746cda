"""The process of a run: in a session of its own, ended together with all that it has begun."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lightning_modules.config.static_registry import ROOT
from lightning_modules.storage.atomic_files import no_link
from lightning_modules.storage.run_files import LOG

TICK = 0.2  # seconds between two looks at what runs
PATIENCE = 30.0  # seconds that runs are given for a step and a checkpoint when they are to stop


def start(
    file: Path, threads: int, *, devices: str | None = None, log: str = LOG, place: str | None = None
) -> subprocess.Popen[bytes]:
    """Begin the run of a job's ``file``; it ends when this process does. What it says is added to the log beside it.

    ``devices`` is the value of CUDA_VISIBLE_DEVICES, ``place`` the folder from which relative paths of the run are
    read; None leaves either as it is.
    """
    command = module_command("lightning_modules", "run-file", "--leash", str(file))
    known = environment(threads) | ({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})
    with open(file.parent / log, "ab", opener=no_link) as stream:
        stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()}: {shlex.join(command)}\n".encode())
        stream.flush()
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT, cwd=place, env=known,
            start_new_session=True,
        )  # fmt: skip


def module_command(module: str, *words: str) -> list[str]:
    """The command that runs a module in a process of its own, which imports nothing from the current folder.

    There may be a stranger's ``random.py`` in it, or the user's own ``torch.py``.
    """
    return [*interpreter(), "-m", module, *words]


def interpreter() -> list[str]:
    """This Python, which leaves the current folder out of what it imports from."""
    return [sys.executable, "-P"]


def environment(threads: int) -> dict[str, str]:
    """What every process of a run gets to know."""
    return os.environ | import_environment() | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def import_environment() -> dict[str, str]:
    """The variables by which a process, and those that it begins, find these packages and no others of their names."""
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": import_path()}


def import_path() -> str:
    """A PYTHONPATH by which these packages are found, also in a clone that is not installed, from any folder.

    The clone itself is named only where it is not found without: it would come before the standard library, with
    whatever else lies in it.
    """
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]  # "" is the current folder
    return os.pathsep.join(given if _origin(os.pathsep.join(given)) == ROOT else [str(ROOT), *given])


@cache
def _origin(path: str) -> Path | None:
    """The folder that a process with this PYTHONPATH has these packages from."""
    code = "import importlib.util as u; print(getattr(u.find_spec('lightning_modules'), 'origin', ''))"
    known = os.environ | {"PYTHONPATH": path}
    said = subprocess.run([*interpreter(), "-c", code], capture_output=True, text=True, check=False, env=known).stdout
    return Path(said.strip()).resolve().parent.parent if said.strip() else None


def wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process to end, and return its exit status; a signal handler may ``end`` it meanwhile."""
    # In a thread: Popen holds a lock while it waits, which a handler of the same thread would wait for in vain.
    waiting = threading.Thread(target=process.wait, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(TICK)
    return process.returncode


def end(processes: Sequence[subprocess.Popen[bytes]], patience: float = PATIENCE) -> None:
    """Ask all to stop, so that each writes a checkpoint; those that take too long are killed.

    The first process of each alone is asked: its data workers would end at once, and the run for the lack of them.
    """
    for process in processes:
        process.terminate()
    latest = time.monotonic() + patience
    try:
        for process in processes:
            process.wait(max(0.0, latest - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            kill_rest(process)
            process.wait()


def kill_rest(process: subprocess.Popen[bytes]) -> None:
    """End what a run has left behind, such as data workers."""
    with contextlib.suppress(ProcessLookupError):  # the group is empty already
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()


def describe_exit(status: int) -> str:
    """The exit status of a process in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
