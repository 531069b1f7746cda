"""Cores, memory, this process's rank, and the command that the user has given."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

COMMAND = "SCHEMENET_COMMAND"
"""The environment variable by which the processes of a run know the user's command."""

LONGEST = 10_000
"""Characters of a command that are kept; an environment variable has a limit."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


def command_line() -> str:
    """The command that the user has given, also in the processes that it has begun."""
    program, *words = sys.argv or [""]
    return os.environ.get(COMMAND) or shlex.join([Path(program).name, *words])[:LONGEST]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU within, as small networks do best.

    Threads of one step wait for each other: beside other work it takes several times as long, and step times of two
    networks have another ratio.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def physical_memory() -> int:
    """Bytes of memory that this machine has; more than any has where the system does not say."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return 2**60
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def keep_freed_pages() -> None:
    """Let freed memory stay with this process, for its next tensors; under glibc.

    glibc returns large blocks to the system as soon as they are freed, and the system clears their pages one by one
    when the next tensor touches them. A process that keeps them stays as large as it was at its peak.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)  # no block is a mapping, which free would undo
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # and the heap shrinks by more than 2 GB at once only


def process_rank() -> int:
    """The rank of this process among those of a run on several devices; 0 where it is alone."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only  # which imports torch

    return getattr(rank_zero_only, "rank", 0)  # an attribute that Lightning gives this function, without a type
