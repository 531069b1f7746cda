"""Runs of a comparison or sweep in the process that starts them, where everything is imported already."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_modules.launching import local
from lightning_modules.launching.fork_server import Starter
from lightning_modules.launching.job import run_file


@contextlib.contextmanager
def _starter(threads: int) -> Iterator[Starter]:
    def start(file: Path, devices: str | None) -> subprocess.Popen[bytes]:
        """Do the run of a job's file, and return a process that ends with its exit status."""
        status = run_file([str(file)])
        return subprocess.Popen(["sh", "-c", f"exit {status}"], stdin=subprocess.PIPE, start_new_session=True)

    yield start


@contextlib.contextmanager
def runs_in_this_process() -> Iterator[None]:
    """The local launcher starts no interpreter for each run, which costs more than a small training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "starter", _starter)
        yield
