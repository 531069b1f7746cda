"""A run folder is written by one run at a time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lightning_modules.files import no_link, writable
from schemes.errors import SchemenetError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None

LOCK = ".lock"
PATIENCE, PAUSE = 2.0, 0.1  # seconds; somebody who only looks whether it is free holds it for a moment
_held: set[TextIO] = set()


@contextmanager
def locked(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a folder for this process. The kernel gives it free when the process ends, also when it is killed.

    Of several processes of one run the first holds it. Raises SchemenetError where another run still does after
    ``patience`` seconds.
    """
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    if rank_zero_only.rank:
        yield
        return
    writable(folder)
    with open(folder / LOCK, "a+", encoding="utf-8", opener=no_link) as file:
        latest = time.monotonic() + patience
        while not (taken := _take(file.fileno())) and time.monotonic() < latest:
            time.sleep(PAUSE)
        if not taken:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise SchemenetError(f"{folder} is being trained by {holder}; wait for it, or stop it")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


def _let_go() -> None:
    """A data worker would hold the lock with its parent, and for seconds after the parent was killed."""
    for file in _held:
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def is_locked(folder: Path) -> bool:
    """Whether a process on this machine trains in a folder."""
    try:
        with open(folder / LOCK, "a+", opener=no_link) as file:
            return not _take(file.fileno())
    except OSError:
        return False


def _take(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True
