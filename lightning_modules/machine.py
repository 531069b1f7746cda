"""Cores, memory, this process's rank, and the command that the user has given."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

COMMAND = "SCHEMENET_COMMAND"
"""The environment variable by which the processes of a run know the user's command."""

LONGEST = 10_000
"""Characters of a command that are kept; an environment variable has a limit."""


def command_line() -> str:
    """The command that the user has given, also in the processes that it has begun."""
    program, *words = sys.argv or [""]
    return os.environ.get(COMMAND) or shlex.join([Path(program).name, *words])[:LONGEST]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_memory() -> int:
    """Bytes of memory that this machine has; more than any has where the system does not say."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return 2**60
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def process_rank() -> int:
    """The rank of this process among those of a run on several devices; 0 where it is alone."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only  # which imports torch

    return getattr(rank_zero_only, "rank", 0)  # an attribute that Lightning gives this function, without a type
