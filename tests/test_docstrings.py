"""Docstrings: each file says what it is, each scheme and architecture names its source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from architectures.registry import ARCHITECTURES
from schemes.registry import SCHEMES

ROOT = Path(__file__).resolve().parents[1]


def test_every_file_says_what_it_is() -> None:
    for package in ("schemes", "architectures", "lightning_modules", "configs"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


@pytest.mark.parametrize("registry", [SCHEMES, ARCHITECTURES], ids=lambda registry: registry.kind)
def test_docstrings_begin_with_a_sentence_and_give_a_reference_with_its_year(registry) -> None:
    for name in registry:
        text = registry[name].__doc__ or ""
        assert text.splitlines()[0].endswith("."), name
        assert re.search(r"References?: .*?\b(18|19|20)\d\d\b", text, re.DOTALL), name
