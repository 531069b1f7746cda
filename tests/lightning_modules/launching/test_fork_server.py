"""Runs that are forked from a process that has imported everything."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lightning_modules.config.compose import compose
from lightning_modules.launching import fork_server
from lightning_modules.launching.fork_server import LOST, ForkedRun, ForkServer
from lightning_modules.launching.job import Job
from lightning_modules.launching.subprocesses import end, kill_rest, start, wait
from lightning_modules.storage.run_files import FAILURE, LOG, RESULT
from schemes.errors import SchemenetError
from tests.support.run_folders import logged, measured

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux alone")
SMALL = ["data.limit_train=64", "data.limit_test=32", "architecture=fractalnet", "architecture.columns=2",
         "architecture.width=0.05", "logger=csv"]  # fmt: skip
LONG = [*SMALL, "trainer.max_epochs=100000"]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(1) as begun:
        yield begun


def job(folder: Path, *words: str) -> Path:
    return Job(folder, compose("train", list(words)), "fractalnet", "group").write()


def log(file: Path) -> str:
    return (file.parent / LOG).read_text(encoding="utf-8")


def until(condition: Callable[[], object]) -> None:
    latest = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.02)


def trains(file: Path) -> bool:
    return (file.parent / "progress.json").exists()


def test_a_forked_run_is_the_run_that_an_interpreter_of_its_own_does(server: ForkServer, tmp_path: Path) -> None:
    forked, alone = (job(tmp_path / name / "seed0", *SMALL, "trainer.max_epochs=2") for name in ("forked", "alone"))
    process = server.start(forked, None)
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    assert process.wait() == 0, log(forked)
    assert process.poll() == 0
    kill_rest(process)
    assert wait(start(alone, 1)) == 0
    assert logged(forked.parent) == logged(alone.parent)
    assert measured(forked.parent) == measured(alone.parent)
    first_lines = [log(file).splitlines()[0].replace("/alone/", "/forked/") for file in (forked, alone)]
    assert len({re.sub(r"^\S+ \S+ ", "", line) for line in first_lines}) == 1
    assert len(log(forked).splitlines()) == len(log(alone).splitlines())  # nothing is said of leaks at the end


def test_a_run_that_fails_says_so_as_one_of_its_own_does(server: ForkServer, tmp_path: Path) -> None:
    file = job(tmp_path, "data=mnist", f"data.root={tmp_path / 'none'}")
    process = server.start(file, "3,1")
    assert process.wait() == 1
    kill_rest(process)
    assert "Traceback" in log(file)
    assert (tmp_path / FAILURE).read_text().startswith("SchemenetError: ")


def test_the_server_has_one_thread_and_no_device(server: ForkServer, tmp_path: Path) -> None:
    """What threads hold when a process is forked is held for ever, and a CUDA context does not survive it."""
    process = server.start(job(tmp_path, *LONG), "3,1")
    begun = server._server
    assert begun is not None
    assert len(os.listdir(f"/proc/{begun.pid}/task")) == 1
    assert not [path for path in Path(f"/proc/{begun.pid}/fd").iterdir() if "nvidia" in os.readlink(path)]
    end([process], patience=0.0)
    assert process.returncode in (-signal.SIGKILL, -signal.SIGTERM, 130)


def test_a_run_ends_by_its_leash_or_a_signal_and_others_go_on(server: ForkServer, tmp_path: Path) -> None:
    files = [job(tmp_path / str(seed), *LONG, f"seed={seed}") for seed in range(3)]
    leashed, killed, stopped = (server.start(file, None) for file in files)
    until(lambda: all(trains(file) for file in files))
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait(30) == -signal.SIGKILL
    assert leashed.poll() is stopped.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        stopped.wait(0.0)
    leashed.stdin.close()
    assert leashed.wait(30) != 0
    assert "stopping after this step" in log(files[0])
    end([stopped])
    assert "stopping after this step" in log(files[2])
    for run in (killed, leashed):
        kill_rest(run)


@pytest.mark.slow
def test_runs_outlive_a_server_that_is_killed_and_the_next_one_gets_another(tmp_path: Path) -> None:
    file, later = job(tmp_path / "first", *LONG), job(tmp_path / "later", *SMALL, "trainer.max_epochs=1")
    with ForkServer(1) as server:
        run = server.start(file, None)
        begun = server._server
        assert begun is not None
        begun.kill()
        begun.wait()
        until(lambda: trains(file))
        assert run.poll() is None
        other = server.start(later, None)
        assert other.wait() == 0, log(later)
        assert json.loads((later.parent / RESULT).read_text())["status"] == "done"
        run.terminate()
        assert run.wait(30) == LOST
        for process in (run, other):
            kill_rest(process)


def test_what_keeps_a_server_from_beginning_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no module named torch')"]
    monkeypatch.setattr(fork_server, "module_command", lambda *words: command)
    with ForkServer(1) as server, pytest.raises(SchemenetError, match="begins runs has ended: no module named torch"):
        server.start(job(tmp_path, *SMALL), None)


def test_where_nothing_is_forked_each_run_gets_an_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server.sys, "platform", "darwin")
    with fork_server.starter(1) as begin:
        process = begin(job(tmp_path, *SMALL, "trainer.max_epochs=1"), None)
        assert not isinstance(process, ForkedRun)
        end([process], patience=0.0)
