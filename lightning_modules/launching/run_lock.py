"""The lock of a run folder: one run at a time writes there.

filelock's lock by the kernel, which ends with its process. Where a file system has none, its marker file, which one
process alone can make; one that a dead process of this machine has left is taken away.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from lightning_modules.machine import process_rank
from lightning_modules.storage.atomic_files import no_link, writable
from schemes.errors import SchemenetError

LOCK, MARKER = ".lock", ".lock.marker"
PATIENCE = 2.0  # seconds; a process that only looks whether the lock is free has it for a moment


@contextmanager
def locked(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Lock a folder for this process. The kernel unlocks it when the process ends, also when it is killed.

    Of several processes of one run the first has the lock.

    Args:
        folder: the run folder, made where it is missing.
        patience: seconds to wait for another process that has the lock; ``math.inf`` waits until it ends.

    Raises:
        SchemenetError: where another run still has the lock after ``patience`` seconds, or the folder is not writable.
    """
    if process_rank():
        yield
        return
    writable(folder)
    try:
        lock = _acquire(folder, patience, on_acquired=_write_holder)
    except Timeout:
        stale = f" (if it is no more, delete {folder / MARKER})" if (folder / MARKER).exists() else ""
        raise SchemenetError(
            f"{folder} is being trained by {_read_holder(folder)}; wait for it, or stop it{stale}"
        ) from None
    if (folder / MARKER).exists():
        print(f"{folder} is on a file system without locks; {MARKER} in it keeps other runs away", flush=True)
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process trains in a folder: one of this machine, or of all that see its file system's locks."""
    if not (folder / LOCK).exists():  # nothing has begun there; filelock would make file and folder
        return False
    try:
        _acquire(folder, patience=0).release()
    except Timeout:
        return True
    except OSError:
        return False
    return False


def _acquire(folder: Path, patience: float, on_acquired: Callable[[int], None] | None = None) -> BaseFileLock:
    """The lock of a folder, acquired; ``on_acquired`` gets the descriptor of its file. Raises Timeout."""
    # Not filelock's own fallback: it is for file systems without the system call alone, not for those that refuse it
    # (ENOLCK of NFS), and its marker would take the name of the file that names the holder.
    lock = FileLock(folder / LOCK, fallback_to_soft=False, on_acquired=on_acquired)
    try:
        lock.acquire(patience)
        return lock
    except OSError as error:
        if isinstance(error, Timeout) or error.filename is not None:  # the file cannot be opened: a link, for one
            raise
    marker = SoftFileLock(folder / MARKER)
    marker.acquire(patience)
    if on_acquired is not None:
        with open(folder / LOCK, "ab", opener=no_link) as file:
            on_acquired(file.fileno())
    return marker


def _write_holder(descriptor: int) -> None:
    """Name this process in the lock's file: filelock's own record is only in its markers."""
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())


def _read_holder(folder: Path) -> str:
    try:
        return (folder / LOCK).read_text(encoding="utf-8").strip() or "another process"
    except (OSError, ValueError):  # Windows lets nobody read a locked file
        return "another process"
