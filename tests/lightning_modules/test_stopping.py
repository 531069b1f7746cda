"""What asks a process to stop: signals, and the terminal that is closed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import stopping
from lightning_modules.data.loader import fetch

ON_A_TERMINAL = """
import os, signal, sys, time
from lightning_modules import stopping
from lightning_modules.data.loader import fetch

def stop(number, frame):
    print("stopping", flush=True)
    print("stopping", file=sys.stderr, flush=True)
    open(sys.argv[1], "w").write(signal.Signals(number).name)
    sys.exit(7)

stopping.handle(stop)
print("listens", flush=True)
while True:
    time.sleep(0.01)
"""


READING: list[Any] = []


def leave_while_reading() -> None:
    """End with a loader whose workers are still at work."""
    batches = fetch(torch.arange(8), list(torch.arange(8).split(1)), workers=2)
    READING.extend((batches, next(batches)))


def test_a_process_that_ends_while_it_reads_leaves_no_worker_behind_and_waits_for_none() -> None:
    process = torch.multiprocessing.get_context("fork").Process(target=leave_while_reading)
    process.start()
    process.join(60)
    waits = process.is_alive()
    process.kill()
    assert not waits
    assert process.exitcode == 0


def test_a_terminal_that_is_closed_asks_to_stop_and_costs_nothing(tmp_path: Path) -> None:
    """What is printed then has nowhere to go: without care the process would die of that, in its handler."""
    control, terminal = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-c", ON_A_TERMINAL, tmp_path / "signal"], stdin=terminal,
        stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    with os.fdopen(control, "rb", buffering=0) as screen:
        assert screen.readline().strip() == b"listens"
    assert process.wait(60) == 7
    assert (tmp_path / "signal").read_text() == "SIGHUP"


def test_what_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `nohup`: the process is meant to outlive its terminal."""
    assert threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    heard: list[int] = []
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stopping.handle(lambda number, frame: heard.append(number))
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert heard == [signal.SIGTERM]
