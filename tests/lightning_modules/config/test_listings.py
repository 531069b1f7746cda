"""Tables fit the terminal they are printed on; pictures have the format of their name; arms keep their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_modules.comparing.arm_names import arm_names
from lightning_modules.comparing.statistics.rule import RULE
from lightning_modules.config.listings import models
from lightning_modules.plotting.command import check_file, save
from lightning_modules.plotting.style import new_figure
from lightning_modules.text import aligned
from schemes.errors import SchemenetError

ROWS = [
    ["scheme", "order", "reference"],
    ["heun", "2", "Heun 1900"],
    ["backward_euler", "1 (linear)", "Curtiss, H. 1952"],
]


@pytest.mark.parametrize("width", [40, 34, 28, 20])
def test_a_table_fits_and_loses_no_word(width: int) -> None:
    lines = aligned(ROWS, width).splitlines()
    assert max(map(len, lines)) <= width
    assert {word for row in ROWS for cell in row for word in cell.split()} <= set(
        " ".join(lines).replace(";", "").split()
    )


def test_an_entry_is_described_without_marks_and_its_options_once() -> None:
    text = models("lm_resnet")
    assert not re.search("``|:func:|Args:", text)
    assert "The first block of the network and the transitions are plain; with history=" in text
    assert re.search(r"scheme +name or \{name: \.\.\.\} +linear_multistep +scheme of the flows\.", text)


def test_a_table_without_a_width_has_a_line_for_each_row() -> None:
    assert aligned(ROWS).splitlines() == aligned(ROWS, 200).splitlines()
    assert len(aligned(ROWS).splitlines()) == 4


@pytest.mark.parametrize(
    ("ending", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml"), ("PDF", b"%PDF")]
)
def test_a_picture_has_the_format_of_its_name(ending: str, begins: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"p.{ending}"
    check_file(path)
    save(new_figure(1, 1), path)
    assert path.read_bytes().startswith(begins)
    with pytest.raises(SchemenetError, match=r"ends in .png, .pdf, .svg, got"):
        check_file(tmp_path / "p.txt")


def test_arms_keep_the_names_they_were_trained_under() -> None:
    heun, rk4 = ({"architecture.name": '"resnet"', "scheme.name": f'"{scheme}"'} for scheme in ("heun", "rk4"))
    described = ["resnet-heun", "resnet-rk4"]
    assert arm_names([heun, rk4], [{"rk2"}, {"rk4"}]) == ["rk2", "rk4"]
    assert arm_names([heun, rk4], [{"a"}, {"a"}]) == described  # of two sweeps
    assert arm_names([heun, rk4], [{"a", "b"}, {None}]) == described
    assert arm_names([heun, rk4], [{"resnet-rk4"}, {None}]) == described  # another's name
    assert arm_names([heun], [{"resnet"}]) == ["resnet"]


def test_one_number_of_seeds_is_asked_for() -> None:
    assert all("takes 8 seeds" in RULE.describe_reach([n])[0] for n in (0, 3))
