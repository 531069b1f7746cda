"""Signals that ask a process to stop: Ctrl-C, SIGTERM, and SIGHUP, as a terminal sends it that is closed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([] if HANGUP is None else [HANGUP]))

Handler = Callable[[int, FrameType | None], object]


def handle(handler: Handler) -> None:
    """Have ``handler`` called when this process is to stop.

    What is ignored stays so: `nohup` begins a process that outlives its terminal. Where that is gone, what is still
    printed goes nowhere, instead of ending the process by an error.
    """
    terminal = [stream for stream in (1, 2) if os.isatty(stream)]  # now: one that is gone is none

    def hang_up(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a shell that ends sends it, and the kernel once more
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in terminal:
            os.dup2(nowhere, stream)
        os.close(nowhere)
        handler(number, frame)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, hang_up if number == HANGUP else handler)
