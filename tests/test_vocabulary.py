"""Names are nouns for values and verbs for functions: words of no meaning stand in none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BANNED = {"told", "tell", "asked", "ask", "held", "found", "own", "beside", "noted", "wanted"}
FILES = (
    "schemes/**/*.py",
    "architectures/**/*.py",
    "lightning_modules/**/*.py",
    "configs/**/*.py",
    "benchmarks/**/*.py",
    "tests/support/*.py",
    "tests/**/test_*_contract.py",
)


def defined(tree: ast.AST) -> Iterator[str]:
    """Every name that a file gives: to functions, classes, arguments, variables, attributes and what it imports."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)) | ast.keyword(arg=str(name)):
                yield name


@pytest.mark.parametrize("files", FILES)
def test_names_are_of_what_they_are(files: str) -> None:
    paths = sorted(ROOT.glob(files))
    assert paths
    for path in paths:
        words = {name: set(re.findall(r"[a-z]+", name.lower())) for name in defined(ast.parse(path.read_text("utf-8")))}
        assert not (wrong := {name for name, parts in words.items() if parts & BANNED}), f"{path}: rename {wrong}"
