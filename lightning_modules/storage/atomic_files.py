"""Atomic writes of files, checked reads, and safe file names."""

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
    """Write a file atomically: a draft in the same folder takes its name at the end of the block.

    Until then the old file stays. The content is on the disk when the block is left, so that not even a loss of power
    leaves a part of it. A process that is killed leaves its draft behind (:func:`remove_drafts`).

    Raises:
        SchemenetError: the file system refuses to write, as when the disk is full.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")  # different for each process
    try:
        with _refusals(path):
            with draft.open("xb") as file:  # never through an existing link
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            _sync_names(path.parent)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def remove_empty(*folders: Path) -> None:
    """Remove those of the folders that are empty, in this order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_drafts(path: Path) -> None:
    """Remove the drafts that killed processes have left of a file; no process may be writing it."""
    for draft in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
        draft.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Append whole lines to a file; where the disk is full, the file stays as it was.

    The last line of a killed process may be cut: readers leave out a last line without an end.
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
    """An ``opener`` for files that are written in place: a foreign run folder may contain a link to a user's file."""
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
    """Refuse a path that exists and is no regular file: reading a pipe would wait for a writer."""
    if path.exists() and not path.is_file():
        raise SchemenetError(f"{path} cannot be read: it is {'a folder' if path.is_dir() else 'no regular file'}")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises SchemenetError where it cannot be read, or is no mapping."""
    refuse_special(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SchemenetError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SchemenetError(f"{path} cannot be read: expected a mapping, got {type(content).__name__}")
    return content


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file, none where there is no file. A last row that was cut is left out."""
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

    Letters, digits and ``_ . = , + -`` stay. Where anything else was replaced, or the end cut off, a short hash is
    added; also where there are capitals, which some file systems do not distinguish from small letters. Never ``.`` or
    ``..``, never hidden, never an option of a command.
    """
    name = re.sub(r"[^A-Za-z0-9_.=,+-]+", "-", text).lstrip(".-")
    if name == text.lower() and 0 < len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return "-".join(filter(None, [name[: LONGEST_NAME - len(digest) - 1].rstrip("-"), digest]))


def writable(folder: Path) -> None:
    """Make a folder, and try to write in it. Raises SchemenetError with the reason where that fails."""
    with _refusals_of_folder(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_writable(folder: Path) -> None:
    """Try whether a folder could be made and written to, as :func:`writable` does, and leave nothing behind.

    Tried in a temporary folder next to its first existing parent: another run may begin in the folder itself.
    """
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    with _refusals_of_folder(folder), tempfile.TemporaryDirectory(dir=there) as place:
        Path(place, folder.relative_to(there)).mkdir(parents=True, exist_ok=True)


@contextmanager
def _refusals_of_folder(folder: Path) -> Iterator[None]:
    """Errors of the file system in a run folder as SchemenetError."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SchemenetError(
            f"cannot write to the run folder {os.fspath(folder)!r}: {reason}; choose another by folder=..."
        ) from error


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Errors of the file system as SchemenetError that names the file."""
    try:
        yield
    except OSError as error:
        raise SchemenetError(f"cannot write {path}: {error.strerror or error}; what was there is kept") from error


def _sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
