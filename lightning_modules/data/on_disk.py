"""Data sets that are read from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning_modules.data.datamodule import SplitData
from schemes.errors import SchemenetError


class FromFiles(SplitData):
    """A set that is read from files.

    Args:
        root: the folder; null: ``$SCHEMENET_DATA``, else ``./data``.
        download: whether missing files are fetched.
    """

    remedy = (
        "name the folder that holds it by data.root=... or by the environment variable SCHEMENET_DATA, "
        "or fetch it by data.download=true"
    )

    def __init__(self, *, root: str | None = None, download: bool = False, **options: Any) -> None:
        self.root = Path(root or os.environ.get("SCHEMENET_DATA") or "data").expanduser()
        self.download = download
        super().__init__(**options)

    def missing(self) -> str | None:
        """Why the files cannot be read, with their path; None where they can."""
        raise NotImplementedError

    def fetch(self) -> None:
        """Download the files to ``root``."""
        raise NotImplementedError

    def check(self) -> None:
        if not self.download:
            self._require()

    def prepare_data(self) -> None:
        if self.download and self.missing():
            try:
                self.fetch()
            except (OSError, RuntimeError) as error:
                name = type(self).__name__
                raise SchemenetError(f"cannot download {name} to {self.root}: {error}") from error

    def setup(self, stage: str | None = None) -> None:
        self._require()
        super().setup(stage)

    def _require(self) -> None:
        if problem := self.missing():
            raise SchemenetError(
                f"{type(self).__name__} cannot be read from {self.root.absolute()}: {problem}\n{self.remedy}"
            )
