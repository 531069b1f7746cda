"""A process that ends with the one that began it, however that one ends."""

from __future__ import annotations

import os
import signal
import threading
import time

PATIENCE = 60.0
"""Seconds between the request to stop and the end by force: time for a step and a checkpoint."""


def exit_with_parent(pipe: int, patience: float = PATIENCE) -> None:
    """Stop this process when the other end of a pipe is closed, as it is by the kernel if its holder is killed.

    First SIGTERM, upon which training writes a checkpoint after its step; then, if that takes too long, SIGKILL to the
    whole process group, which the process must lead.
    """

    def watch() -> None:
        # By its number: a file object would be locked while it waits, and Python dies of that when it ends.
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="leash").start()
