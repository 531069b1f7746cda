"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from schemes.errors import SchemenetError

LONGEST_NAME = 120
"""Characters of a file name; systems take 255 bytes, and endings are added to it."""


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


def safe_name(text: str) -> str:
    """``text`` as the name of one file or folder, at most 120 characters, different for different texts.

    Letters, digits and ``_ . = , + -`` stay. Where anything else was replaced, or the end cut off, a short hash tells
    texts apart; also with capitals, which some file systems do not tell from small letters. Never ``.`` or ``..``,
    never hidden, never an option.
    """
    name = re.sub(r"[^A-Za-z0-9_.=,+-]+", "-", text).lstrip(".-")
    if name == text.lower() and 0 < len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return "-".join(filter(None, [name[: LONGEST_NAME - len(digest) - 1].rstrip("-"), digest]))
