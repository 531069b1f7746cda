"""A run folder is written by one run at a time.

By the kernel's lock on a file, which ends with its process. Where a file system has none, by a marker beside it, which
one process alone can make; one that a process of this machine has left behind is taken away.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from filelock import SoftFileLock, Timeout

from lightning_modules.storage.atomic_files import no_link, writable
from schemes.errors import SchemenetError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None

LOCK, MARKER = ".lock", ".lock.marker"
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
        while (release := _take(folder, file.fileno())) is None and time.monotonic() < latest:
            time.sleep(PAUSE)
        if release is None:
            file.seek(0)
            holder = file.read().strip() or "another process"
            left = f" (if it is no more, delete {folder / MARKER})" if (folder / MARKER).exists() else ""
            raise SchemenetError(f"{folder} is being trained by {holder}; wait for it, or stop it{left}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        _held.add(file)
        if (folder / MARKER).exists():
            print(f"{folder} is on a file system without locks; {MARKER} in it keeps other runs away", flush=True)
        try:
            yield
        finally:
            _held.discard(file)
            release()


def _let_go() -> None:
    """A data worker would hold the lock with its parent, and for seconds after the parent was killed."""
    for file in _held:
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def is_locked(folder: Path) -> bool:
    """Whether a process trains in a folder: one of this machine, or of all that see its file system's locks."""
    try:
        with open(folder / LOCK, "a+", opener=no_link) as file:
            release = _take(folder, file.fileno())
    except OSError:
        return False
    if release is not None:
        release()
    return release is None


def _take(folder: Path, descriptor: int) -> Callable[[], object] | None:
    """Take the lock of a folder, if it is free; what gives it free again. The kernel does where the file is closed."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lambda: None
    except BlockingIOError:
        return None
    except OSError:
        pass  # a file system without locks
    marker = SoftFileLock(folder / MARKER, timeout=0)
    try:
        marker.acquire()
    except Timeout:
        return None
    return marker.release
