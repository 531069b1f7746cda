"""Starts the worker process of a run in a separate session, and ends it with all its children."""

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
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from lightning_modules.config.static_registry import ROOT
from lightning_modules.machine import COMMAND, command_line
from lightning_modules.storage.atomic_files import no_link
from lightning_modules.storage.run_files import LOG
from schemes.plugins import FOLDER

TICK = 0.2  # seconds between two looks at what runs
PATIENCE = 30.0  # seconds that runs are given for a step and a checkpoint when they are to stop


class RunProcess(Protocol):
    """The first process of a run, which leads a session: a ``subprocess.Popen``, or one that was forked."""

    @property
    def pid(self) -> int: ...
    @property
    def stdin(self) -> IO[bytes] | None:
        """Closing it ends the run."""
        ...

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...


def start(
    file: Path, threads: int, *, devices: str | None = None, log: str = LOG, place: str | None = None
) -> subprocess.Popen[bytes]:
    """Begin the run of a job file; it ends when this process does. Its output is appended to the log in its folder.

    Args:
        file: the job file.
        threads: CPU threads of the run.
        devices: the value of CUDA_VISIBLE_DEVICES; None leaves it.
        log: the name of the log.
        place: the folder from which relative paths of the run are read; None: the current one.
    """
    command = run_command(file)
    known = environment(threads) | ({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})
    with begin_log(file.parent / log, command) as stream:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT, cwd=place, env=known,
            start_new_session=True,
        )  # fmt: skip


def run_command(file: Path) -> list[str]:
    """The command that does the run of a job file, and ends with the process that holds its standard input."""
    return module_command("lightning_modules", "run-file", "--leash", str(file))


@contextlib.contextmanager
def begin_log(path: Path, command: Sequence[str]) -> Iterator[BinaryIO]:
    """A log opened for more output, after a line that says when, where and by which command it begins."""
    with open(path, "ab", opener=no_link) as stream:
        stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()}: {shlex.join(command)}\n".encode())
        stream.flush()
        yield stream


def module_command(module: str, *words: str) -> list[str]:
    """The command that runs a module in another process, which imports nothing from the current folder.

    A ``random.py`` or ``torch.py`` may lie there.
    """
    return [*interpreter(), "-m", module, *words]


def interpreter() -> list[str]:
    """This Python, without the current folder on its import path."""
    return [sys.executable, "-P"]


def environment(threads: int) -> dict[str, str]:
    """The environment variables of each process of a run."""
    return os.environ | import_environment() | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def import_environment() -> dict[str, str]:
    """The variables by which a process and its children import these packages and the user's modules.

    No file of the current folder is imported by its name. The user's command is passed on for the results.
    """
    folder = {FOLDER: os.environ[FOLDER]} if FOLDER in os.environ else {}
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": import_path(), COMMAND: command_line(), **folder}


def import_path() -> str:
    """A PYTHONPATH by which these packages are found from any folder, also in a clone that is not installed.

    The clone is on it only where it is needed: it would come before the standard library, with all files in it.
    """
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]  # "" is the current folder
    return os.pathsep.join(given if _origin(os.pathsep.join(given)) == ROOT else [str(ROOT), *given])


@cache
def _origin(path: str) -> Path | None:
    """The folder that a process with this PYTHONPATH has these packages from."""
    code = "import importlib.util as u; print(getattr(u.find_spec('lightning_modules'), 'origin', ''))"
    known = os.environ | {"PYTHONPATH": path}
    output = subprocess.run([*interpreter(), "-c", code], capture_output=True, text=True, check=False, env=known).stdout
    return Path(output.strip()).resolve().parent.parent if output.strip() else None


def wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process to end, and return its exit status; a signal handler may ``end`` it meanwhile."""
    # In a thread: Popen holds a lock while it waits, which a handler of the same thread would wait for in vain.
    waiting = threading.Thread(target=process.wait, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(TICK)
    return process.returncode


def end(processes: Sequence[RunProcess], patience: float = PATIENCE) -> None:
    """Stop runs: SIGTERM, upon which each writes a checkpoint, then SIGKILL.

    Only the first process of each gets SIGTERM: data workers would end at once, and the run without them.

    Args:
        processes: the first process of each run.
        patience: seconds between the two signals.
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


def kill_rest(process: RunProcess) -> None:
    """Kill what is left of a run, such as data workers."""
    with contextlib.suppress(ProcessLookupError):  # the group is empty already
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()


def describe_exit(status: int) -> str:
    """The exit status of a process in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
