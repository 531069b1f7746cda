"""Sets that torchvision knows where to fetch and how to read."""

from __future__ import annotations

from typing import Any

from lightning_modules.data.in_memory import FileData


class PublishedData(FileData):
    """A set that torchvision has under the name of this class."""

    @property
    def reader(self) -> Any:
        """torchvision's class; importing it takes a second, and a config is checked without it."""
        from torchvision import datasets

        return getattr(datasets, type(self).__name__)

    def fetch(self) -> None:
        self.reader(self.root, download=True)
