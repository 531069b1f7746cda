"""What is set on the machine: pages that are kept, and threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_modules.config.registries import TRAINERS
from lightning_modules.machine import has_glibc, one_thread
from lightning_modules.training import trainers
from schemes.errors import SchemenetError

FAULTS = """
import resource, sys
from pathlib import Path
import torch
from lightning_modules.config.registries import TRAINERS

TRAINERS.build({"name": "default", "keep_pages": sys.argv[1] == "kept"}, folder=Path(), callbacks=[], logger=False)
for _ in range(12):  # until a freed block is there for each
    torch.ones(BLOCK)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    torch.ones(BLOCK)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
BLOCK = 10 * 2**20
"""Numbers of a block. Its 40 MB are more than the 32 that glibc's own threshold grows to."""


@pytest.mark.skipif(not has_glibc(), reason="an option of glibc")
def test_a_freed_block_is_used_again_where_pages_are_kept() -> None:
    program = FAULTS.replace("BLOCK", str(BLOCK))
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True, check=True).stdout)
        for word in ("kept", "returned")
    )
    assert kept < returned / 10


def test_pages_are_kept_by_glibc_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "has_glibc", lambda: False)
    options = {"name": "default", "keep_pages": True}
    with pytest.raises(SchemenetError, match=r"trainer\.keep_pages: expected false on this machine"):
        TRAINERS.build(options, folder=Path(), callbacks=[], logger=False)


def test_one_thread_gives_the_others_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        with pytest.raises(ZeroDivisionError), one_thread():
            assert torch.get_num_threads() / 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
