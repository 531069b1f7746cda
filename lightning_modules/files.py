"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from schemes.errors import SchemenetError


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a draft beside ``path`` that takes its name at the end of the block; until then the old file stands.

    Raises SchemenetError where the file system refuses, a full disk for one.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as file:
            yield file
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SchemenetError(f"cannot write {path}: {error.strerror}; what was there is kept") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with whole(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
