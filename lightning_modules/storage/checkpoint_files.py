"""Atomic writes of checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_modules.storage.atomic_files import whole


def write_checkpoint(content: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint atomically.

    Args:
        content: tensors and plain data.
        path: the file.
        previous: the name that a file takes which is there already; None: it is replaced.

    Raises:
        SchemenetError: the file system refuses to write, as when the disk is full.
    """
    with whole(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch hides the reason behind an error that does not name it
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.flush()
        os.fsync(file.fileno())  # before the old one is renamed
        if previous is not None and path.exists():
            os.replace(path, previous)
