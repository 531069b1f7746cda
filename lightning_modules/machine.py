"""Cores, memory and this process's rank."""

from __future__ import annotations

import os


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
