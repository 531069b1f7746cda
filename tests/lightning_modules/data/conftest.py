"""Data sets see no folder of the user, and MNIST's files are made here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_modules.config.registries import DATA


@pytest.fixture(autouse=True)
def no_outer_data(monkeypatch, request):
    if "real_root" not in request.fixturenames:
        monkeypatch.delenv("SCHEMENET_DATA", raising=False)


@pytest.fixture(autouse=True)
def fabricated(monkeypatch, request):
    """MNIST's files are made here, and have other checksums."""
    if "real_root" not in request.fixturenames:
        monkeypatch.setattr(DATA["mnist"], "checksums", lambda _: {})


@pytest.fixture
def real_root() -> str:
    if not (root := os.environ.get("SCHEMENET_DATA")):
        pytest.skip("SCHEMENET_DATA names no folder with real data")
    if not Path(root, "MNIST", "raw").is_dir():
        pytest.skip(f"SCHEMENET_DATA={root} holds no MNIST/raw")
    return root
