"""Files that are there whole or not at all, whatever happens while they are written; texts as names of files."""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import re
import secrets
import tempfile
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

    On the disk when the block is left, so that not even a loss of power leaves a part of it. Raises SchemenetError
    where the file system refuses, a full disk for one. A process that is killed leaves its draft behind.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")  # another process's has another name
    try:
        with _refusals(path):
            with draft.open("xb") as file:  # never through a link that is laid there
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            _sync_names(path.parent)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def remove_empty(*folders: Path) -> None:
    """Remove folders, in this order, as far as nothing is in them."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_drafts(path: Path) -> None:
    """Remove the drafts of a file that processes have left which were killed; nobody may be writing it."""
    for draft in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
        draft.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Add whole lines at the end of a file; where they do not fit, the file is left as it was.

    What a process adds at its death may be cut: readers leave out a last line without an end.
    """
    with _refusals(path), path.open("ab") as file:
        size = file.tell()
        try:
            file.write(text.encode())
            file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def no_link(path: str, flags: int) -> int:
    """The opener of a file that is written in place: a folder from others may hold a link to one of the user's."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def sync(path: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    with _refusals(path), path.open("rb") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    with whole(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def refuse_special(path: Path) -> None:
    """Refuse what is there and holds no bytes of its own: reading a pipe waits for who may never write."""
    if path.exists() and not path.is_file():
        raise SchemenetError(f"{path} cannot be read: it is {'a folder' if path.is_dir() else 'no regular file'}")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a file holds. Raises SchemenetError where there is none, or something else."""
    refuse_special(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SchemenetError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SchemenetError(f"{path} cannot be read: expected a mapping, got {type(content).__name__}")
    return content


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file, none where there is no file. A last one that was cut is left out."""
    refuse_special(path)
    try:
        text = path.read_text(encoding="utf-8")
        return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), restval=""))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise SchemenetError(f"{path} cannot be read: {error}") from error


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


def writable(folder: Path) -> None:
    """Make a folder, or say why a run cannot be written there."""
    with _refusals_of_folder(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_writable(folder: Path) -> None:
    """Try a folder as :func:`writable` does, and leave nothing behind.

    Not in its place: what another run that begins there at the same time has made would be taken away with it.
    """
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    with _refusals_of_folder(folder), tempfile.TemporaryDirectory(dir=there) as place:
        Path(place, folder.relative_to(there)).mkdir(parents=True, exist_ok=True)


@contextmanager
def _refusals_of_folder(folder: Path) -> Iterator[None]:
    """What the file system refuses of a run folder."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SchemenetError(
            f"cannot write to the run folder {os.fspath(folder)!r}: {reason}; choose another by folder=..."
        ) from error


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the file system refuses, as a message that names the file."""
    try:
        yield
    except OSError as error:
        raise SchemenetError(f"cannot write {path}: {error.strerror or error}; what was there is kept") from error


def _sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, on systems that know such a thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
