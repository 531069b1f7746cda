"""Terminates this process when its parent dies, also when the parent is killed."""

from __future__ import annotations

import os
import signal
import threading
import time

PATIENCE = 60.0
"""Seconds between SIGTERM and SIGKILL: time for a step and a checkpoint."""


def exit_with_parent(pipe: int, patience: float = PATIENCE) -> None:
    """Stop this process when the other end of a pipe is closed, which the kernel does when the parent dies.

    First SIGTERM, upon which training writes a checkpoint after its step; then SIGKILL to the process group, which this
    process must lead.

    Args:
        pipe: file descriptor of the end to read from; the parent keeps the other end.
        patience: seconds between the two signals.
    """

    def watch() -> None:
        # By its number: a file object would be locked while it waits, and Python dies of that when it ends.
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="leash").start()
