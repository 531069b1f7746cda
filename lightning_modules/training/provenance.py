"""Where a result comes from: date, host, device, command and commit. No part of a recipe, and never compared."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from typing import Any

import torch

from lightning_modules.config.static_registry import ROOT
from lightning_modules.machine import command_line

PATIENCE = 5.0
"""Seconds that git is given."""


def provenance(device: torch.device) -> dict[str, Any]:
    """The entry ``provenance`` of a result.

    Args:
        device: on which the run was trained.

    Returns:
        ``date`` (ISO 8601, UTC), ``host``, ``device`` (its name), ``command``, and ``commit`` of this package's
        checkout with the ending ``-dirty`` where files in it are changed; null where it is installed without one.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "device": device_name(device),
        "command": command_line(),
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    """The name of a device: that of the GPU, or the processor's as far as the system says it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration, UnicodeDecodeError):
        return platform.processor() or platform.machine()


@cache
def commit() -> str | None:
    """The git commit of this package's checkout; None where it is none, or git does not answer."""
    if not (ROOT / ".git").exists():  # else the packages lie in a folder of somebody else's checkout
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() or None
