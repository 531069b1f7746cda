"""The command ``schemenet control``."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lightning_modules.cli import main


def test_control_prints_the_cost_and_writes_picture_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["control", "car", "problem.distance=4", "steps=8", "scheme=heun", "--out", str(tmp_path / "car.svg")]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "cost 4; the least of all is 4" in output
    assert "converged after" in output
    assert "<svg" in (tmp_path / "car.svg").read_text()
    with (tmp_path / "car.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["t", "x0", "x1", "a0", "a1", "u0", "H"]
    assert [float(row["t"]) for row in rows] == pytest.approx([n / 2 for n in range(9)])
    assert float(rows[-1]["x0"]) == pytest.approx(4.0)
    assert rows[-1]["u0"] is None or rows[-1]["u0"] == ""
    assert [float(row["u0"]) for row in rows[:-1]] == pytest.approx([1.0] * 4 + [-1.0] * 4)


def test_a_search_that_is_not_done_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["control", "car", "steps=4", "method=successive_approximations", "method.iterations=3"]
    assert main([*words, "--out", str(tmp_path / "car.png")]) == 1
    assert "not converged after 3 iterations" in capsys.readouterr().out


def test_all_mistakes_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["control", "car", "scheem=rk4", "steps=many", "problem.distnce=2", "method=foo", "scheme.x=1", "steps=3"]
    assert main(words) == 2
    message = capsys.readouterr().err
    for part in ("'scheem'", "'scheme'", "'distnce'", "'distance'", "'foo'", "direct_shooting", "'x'", "twice"):
        assert part in message, message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the name of a problem first, one of car, linear_quadratic"),
        (["steps=3"], "the name of a problem first"),
        (["cra"], "did you mean 'car'"),
        (["car", "--out", "x.txt"], ".png, .pdf, .svg"),
        (["car", "steps=[1]"], "steps expected a whole number"),
        (["car", "problem.distance=0"], "above 0, got 0"),
        (["car", "problem=car"], "takes no 'problem'"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["control", *words]) == 2
    assert message in capsys.readouterr().err
