"""Base class of data sets that torchvision downloads and reads."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.data.on_disk import FromFiles
from lightning_modules.data.supervised.base import LabelledData


class PublishedData(FromFiles, LabelledData):
    """A set that torchvision has under the name of this class, and whose files are the same everywhere."""

    def checksums(self) -> Mapping[str, str]:
        """The MD5 sum of each file, by its path below ``root``."""
        raise NotImplementedError

    def missing(self) -> str | None:
        return next(filter(None, (_objection(self.root / name, sum) for name, sum in self.checksums().items())), None)

    @property
    def reader(self) -> Any:
        """torchvision's class; importing it takes a second, and a config is checked without it."""
        from torchvision import datasets

        return getattr(datasets, type(self).__name__)

    def fetch(self) -> None:
        self.reader(self.root, download=True)


def _objection(path: Path, published: str) -> str | None:
    """Why a file is not the published one: it cannot be read, or was changed; None where it is."""
    try:
        status = path.stat()
        digest = _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if digest == published:
        return None
    size = status.st_size
    return f"{path} is not the published file (delete it): {size} bytes with the MD5 sum {digest}, not {published}"


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    """The MD5 sum, computed once for each size and time of change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()
