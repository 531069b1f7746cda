"""Signals that request a process to stop: Ctrl-C, SIGTERM, and SIGHUP, which a closed terminal sends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([] if HANGUP is None else [HANGUP]))

Handler = Callable[[int, FrameType | None], object]


def handle(handler: Handler) -> None:
    """Call ``handler`` when this process is requested to stop.

    Ignored signals stay ignored: `nohup` starts a process that outlives its terminal. Once that is closed, output is
    dropped, instead of ending the process by an error.
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
