"""What all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _quiet_and_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random numbers for every test, one thread, no account asked for.

    `make test-all` runs what computes with numbers under other seeds and threads too.
    """
    torch.manual_seed(int(os.environ.get("SCHEMENET_TEST_SEED", "0")))
    torch.set_num_threads(int(os.environ.get("SCHEMENET_TEST_THREADS", "1")))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("COLUMNS", raising=False)  # by which xdist tells its processes of a terminal that they have not


SHADOWS = ("lightning_modules", "schemes", "torch", "random", "signal", "submitit", "ray", "wandb")


@pytest.fixture
def strangers_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder holds code under names that every process imports; none of it may run."""
    folder, ran = tmp_path_factory.mktemp("strangers"), tmp_path_factory.mktemp("ran")
    for name in SHADOWS:
        code = f"open({str(ran / name)!r}, 'w')\nraise ImportError('this is of the current folder')\n"
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(folder)
    yield folder
    assert [path.name for path in ran.iterdir()] == []


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without Python's garbage collector a reference cycle keeps its tensors."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# What a plain call leaves out, and the command that runs it.
LEFT_OUT = {
    "slow": "are slow: make test-all",
    "slurm": "begin a Slurm: make test-slurm",
    "gpu": "need a CUDA device: docs/gpu.md",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    runs = {marker: marker in config.option.markexpr for marker in LEFT_OUT} | {"gpu": torch.cuda.is_available()}
    for marker, reason in LEFT_OUT.items():
        for item in items:
            if item.get_closest_marker(marker) and not runs[marker]:
                item.add_marker(pytest.mark.skip(reason=f"tests that {reason}"))


def pytest_collection_finish() -> None:
    """What is imported by now is no garbage. Collections, which tests and libraries ask for, then look at less."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """No test is left out in silence, not even under -q."""
    for marker, reason in LEFT_OUT.items():
        left_out = [report for report in terminalreporter.getreports("skipped") if marker in report.keywords]
        if left_out:
            terminalreporter.write_line(f"{len(left_out)} tests were skipped that {reason}")
