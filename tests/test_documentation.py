"""The documentation: tables from the registry, the reference, README's program, the notebooks and the site."""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import schemenet
from schemes.registry import SCHEMES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REFERENCE = [
    name
    for page in (ROOT / "docs/api").glob("*.md")
    for name in re.findall(r"^::: schemenet\.(\w+)$", page.read_text("utf-8"), re.MULTILINE)
]


def script(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_tables_of_schemes_are_those_of_the_registry() -> None:
    module = script("scheme_tables")
    text = module.PAGE.read_text("utf-8")
    assert module.filled(text) == text, "run python docs/scheme_tables.py"
    by_task = text.split("## All schemes")[0]
    assert not [name for name in SCHEMES if not SCHEMES.entry(name).outside and f"`{name}`" not in by_task]


def test_costates_of_fresh_networks_are_those_of_the_page() -> None:
    module = script("gradients_along_depth")
    with (module.FOLDER / "at_the_start.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("plain", "resnet"):
        key = {"network": name, "norm": "batch", "weights": "He", "depth": "20", "seed": "0"}
        written = [float(row["costate"]) for row in rows if {**row, **key} == row]
        flows = module.measure(*key.values())
        assert [norm for flow in flows for norm in flow.norms] == pytest.approx(written, rel=0.01)


def test_no_flow_of_the_line_is_nearer_to_the_sine_than_a_monotone_function() -> None:
    module = script("one_dimension")
    bound, x, y = module.monotone_bound()
    assert np.all(np.diff(y) >= 0)
    assert bound == pytest.approx(np.sqrt(np.mean((y - np.sin(x)) ** 2)), rel=1e-4)
    assert f"leaves an RMSE of {bound:.3f}" in " ".join((ROOT / "docs/one_dimension.md").read_text("utf-8").split())
    with (module.FOLDER / "results.csv").open(encoding="utf-8", newline="") as file:
        errors = [float(row["test_rmse"]) for row in csv.DictReader(file) if row["arm"] == "augment=0"]
    assert len(errors) == 8
    assert min(errors) > bound


def test_tables_of_depth_doubling_are_those_of_its_runs() -> None:
    module = script("depth_doubling")
    with (module.FOLDER / "depth_doubling.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            module.Row(int(row["budget"]), int(row["seed"]), row["arm"], *map(float, list(row.values())[3:]))
            for row in csv.DictReader(file)
        ]
    page = module.FOLDER.with_suffix(".md").read_text("utf-8")
    assert all(line in page for line in module.tables(rows))
    flops = {(row.budget, row.arm): row.train_gflops for row in rows}
    for budget in module.TRAININGS:
        for arm in ("full, restarts", "coarse to fine", "half, equal FLOPs"):
            assert flops[budget, arm] == pytest.approx(flops[budget, "full"], rel=0.02)


def test_tables_of_emsa_are_those_of_its_runs() -> None:
    module = script("emsa")
    with (module.FOLDER / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            module.Row(
                row["problem"],
                row["tuned_for"],
                int(row["seed"]),
                row["method"],
                row["setting"],
                int(row["iterations"]),
                *(float(row[key]) for key in ("seconds", "loss", "error")),
            )
            for row in csv.DictReader(file)
        ]
    assert {row.seed for row in rows} == set(module.SEEDS)
    page = module.FOLDER.with_suffix(".md").read_text("utf-8")
    assert all(line in page for line in module.table(rows))


def test_each_public_name_is_in_the_reference_once() -> None:
    assert sorted(REFERENCE) == sorted(schemenet.__all__)


def test_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 6000


@pytest.mark.slow
def test_each_public_name_has_a_docstring() -> None:
    griffe = pytest.importorskip("griffe")
    loader = griffe.GriffeLoader(search_paths=[str(ROOT)])
    for package in ("schemes", "architectures", "lightning_modules", "schemenet"):
        loader.load(package)
    module = loader.modules_collection["schemenet"]
    assert not [name for name in schemenet.__all__ if not module[name].has_docstring]


@pytest.mark.slow
def test_site_builds_strictly_and_loads_nothing_from_a_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stderr
    loads = r"<(?:script|img|iframe|source)\b[^>]*\ssrc=\"(?:https?:)?//|<link\b[^>]*\shref=\"(?:https?:)?//"
    for page in tmp_path.rglob("*.html"):
        assert not re.findall(loads, page.read_text("utf-8")), page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text("utf-8")), sheet
    reference = "".join(page.read_text("utf-8") for page in (tmp_path / "api").glob("*.html"))
    assert not [name for name in schemenet.__all__ if f'id="schemenet.{name}"' not in reference]
    assert (tmp_path / "search/search_index.js").exists()


@pytest.mark.slow
def test_program_of_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = re.search(r"```python\n(import schemenet\n.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert program is not None
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = subprocess.run([sys.executable, "-c", program[1]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
