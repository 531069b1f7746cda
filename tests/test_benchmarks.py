"""Benchmarks that this machine cannot run in full still work."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_the_benchmark_of_gpus_works_in_its_smallest_form(tmp_path: Path) -> None:
    """Also where there is no GPU, so that one who is lent it does not debug there."""
    done = subprocess.run(
        [sys.executable, GPU, "--smallest", "--csv", tmp_path], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    tables = {path.stem: list(csv.DictReader(path.open())) for path in tmp_path.iterdir()}
    assert {name: len(rows) for name, rows in tables.items()} == {"throughput": 3, "solves": 1, "memory": 4}
    for row in (row for rows in tables.values() for row in rows):
        assert all(float(value.replace(",", "")) > 0 for value in list(row.values())[2:])
    bytes_of = {row["gradient"]: [float(row["2 steps"]), float(row["4 steps"])] for row in tables["memory"]}
    assert bytes_of["backprop"][1] > 1.5 * bytes_of["backprop"][0]
    assert bytes_of["reversible"][0] == bytes_of["reversible"][1]
