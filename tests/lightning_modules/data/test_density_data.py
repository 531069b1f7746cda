"""Data whose density is asked for: its facts, its own units, what is wrong with a table; and runs from end to end."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.cli import main
from lightning_modules.config.registries import DATA
from lightning_modules.data.density.base import DensityData
from lightning_modules.data.density.energy import ENERGIES, Energy
from lightning_modules.data.density.plane import SETS, Plane
from lightning_modules.plotting import density
from schemes.errors import SchemenetError
from tests.lightning_modules.plotting.test_plots import clipped

N = 4000


def points(name: str) -> Tensor:
    return SETS[name](N, torch.Generator().manual_seed(0))


# The plane ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_the_same_for_every_run_and_parted(name: str) -> None:
    first, second = (Plane(set=name, train_size=60, test_size=40, seed=seed) for seed in (0, 1))
    first.setup()
    second.setup()
    assert torch.equal(first.train_set.values, second.train_set.values)
    assert first.train_set.values.shape == (60, 2)
    assert first.test_set.values.shape == (40, 2)
    assert not torch.isin(first.test_set.values, first.train_set.values).any()


CENTRED = ("circles", "rings", "8gaussians", "pinwheel", "2spirals", "checkerboard")


def test_the_symmetric_sets_lie_around_the_origin() -> None:
    for name in CENTRED:
        assert float(points(name).mean(0).norm()) < 0.15, name


def test_radii_of_circles_and_rings() -> None:
    for name, radii in {"circles": [1.5, 3.0], "rings": [0.75, 1.5, 2.25, 3.0]}.items():
        found = points(name).norm(dim=1)
        width = 0.24 if name == "circles" else 0.08
        nearest = (found[:, None] - torch.tensor(radii)).abs().min(1)
        assert float((nearest.values < 3.5 * width).float().mean()) > 0.995
        assert nearest.indices.bincount().float().div(N).allclose(torch.full((len(radii),), 1 / len(radii)), atol=0.03)


def test_checkerboard_fills_eight_squares_evenly() -> None:
    x = points("checkerboard")
    assert float(x.abs().max()) <= 4
    square = (x / 2).floor().int()
    assert ((square.sum(1) % 2) == 0).all()
    counts = torch.unique(square, dim=0, return_counts=True)[1].float()
    assert len(counts) == 8
    assert counts.div(N).allclose(torch.full((8,), 1 / 8), atol=0.03)


def test_the_entropy_of_eight_gaussians_is_what_is_said() -> None:
    x, sd = points("8gaussians").double(), 0.5 / 1.414
    angle = math.pi / 4 * torch.arange(8).double()
    centres = 4 / 1.414 * torch.stack([angle.cos(), angle.sin()], 1)
    squares = ((x[:, None] - centres) / sd).square().sum(2)
    log_density = torch.logsumexp(-squares / 2, 1) - math.log(8 * 2 * math.pi * sd**2)
    assert float(-log_density.mean()) == pytest.approx(2.837, abs=3 / math.sqrt(N))


def test_two_spirals_are_turned_into_each_other_and_moons_are_scaled() -> None:
    x = points("2spirals")
    assert float((x[::2].mean(0) + x[1::2].mean(0)).abs().max()) < 0.15
    assert float(x.norm(dim=1).max()) < 3 * math.pi / 3 + 0.8
    moons = points("moons")
    assert moons.mean(0).tolist() == pytest.approx([0.0, 0.3], abs=0.1)  # 2 (1/2, 1/4) + (-1, -0.2)
    roll = points("swissroll").norm(dim=1)
    assert 1.5 * math.pi / 5 - 0.7 < float(roll.min()) < float(roll.max()) < 4.5 * math.pi / 5 + 0.8


# Units --------------------------------------------------------------------------------------------------


def table(folder: Path, rows: int = 40) -> Path:
    stream = np.random.default_rng(0)
    values = stream.normal(size=(rows, 3)) * [1.0, 50.0, 0.01] + [0, 1000, 5]
    path = folder / "own.csv"
    np.savetxt(path, values, delimiter=",", header="length,mass,charge", comments="")
    return path


def made(name: str, folder: Path) -> DensityData:
    data = DATA.build({"name": name, **({"file": str(table(folder))} if name == "table" else {})}, seed=0)
    data.setup()
    return data


@pytest.mark.parametrize("name", ["plane", "digits_density", "table"])
def test_the_change_of_units_is_counted(name: str, tmp_path: Path) -> None:
    """log |det dx/dv| against autograd's derivative of v by x."""
    data = made(name, tmp_path)
    x = data.first(3).double()
    jacobian = torch.autograd.functional.jacobian(lambda y: data.original(y).sum(0), x).transpose(0, 1)
    told = data.log_jacobian(x)
    torch.testing.assert_close(told, -torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-6, atol=1e-6)


def test_digits_are_spread_over_their_levels_and_found_again() -> None:
    data = DATA.build("digits_density", seed=0)
    data.setup()
    assert len(data.train_set), len(data.test_set) == (1297, 500)
    v = data.original(data.first(500).double())
    assert 0 <= float(v.min()) <= float(v.max()) < 17.001
    levels = v.floor().clamp(0, 16)
    assert levels.unique().tolist() == list(range(17))
    torch.testing.assert_close(v.float(), data.test_set.values, atol=1e-3, rtol=0)
    assert float((v - levels).mean()) == pytest.approx(0.5, abs=0.01)


def test_a_uniform_density_has_the_bits_of_its_levels() -> None:
    """log2 17 bits per dimension of a model that is uniform over (0, 17)^64."""
    data = DATA.build("digits_density", seed=0)
    data.setup()
    x = data.first(20).double()
    share = torch.sigmoid(x)  # x = logit(a + (1 - 2a) u): the density of x where u is uniform
    log_density = (share * (1 - share) / 0.9).log().sum(1)
    nats = -(log_density + data.log_jacobian(x))
    assert (nats / 64 / math.log(2)).tolist() == pytest.approx([math.log2(17)] * 20)


def test_tables_are_standardised_by_their_training_rows(tmp_path: Path) -> None:
    data = made("table", tmp_path)
    assert data.shape == (3,)
    assert data.columns == ["length", "mass", "charge"]
    assert len(data.train_set), len(data.test_set) == (36, 4)
    torch.testing.assert_close(data.train_set.values.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(data.train_set.values.std(0, correction=0), torch.ones(3), rtol=1e-5, atol=0)
    rows = np.loadtxt(data.file, delimiter=",", skiprows=1)
    found = data.original(torch.cat([data.train_set.values, data.test_set.values]).double()).numpy()
    assert np.allclose(np.sort(found, 0), np.sort(rows, 0), rtol=1e-6)


def test_an_npy_and_a_csv_without_names_are_the_same_table(tmp_path: Path) -> None:
    values = np.loadtxt(table(tmp_path), delimiter=",", skiprows=1)
    np.save(tmp_path / "own.npy", values)
    np.savetxt(tmp_path / "bare.csv", values, delimiter=",")
    sets = []
    for name in ("own.npy", "bare.csv"):
        data = DATA.build({"name": "table", "file": str(tmp_path / name)}, seed=0)
        data.setup()
        assert data.columns == ["x1", "x2", "x3"]
        sets.append(data.train_set.values)
    torch.testing.assert_close(*sets)


BAD = {
    "text": ("a,b\n1,2\n3,four\n", "bad.csv, line 3: column 'b': expected a finite number, got 'four'"),
    "ragged": ("a,b\n1,2\n\n3,4,5\n", "bad.csv, line 4: expected 2 numbers, as many as in the first line, got 3"),
    "not a number": ("1,2\nnan,3\n", "bad.csv, line 2: column 'x1': expected a finite number, got 'nan'"),
    "empty cell": ("a,b\n1,\n", "bad.csv, line 2: column 'b': expected a finite number, got an empty cell"),
    "few": ("a,b\n1,2\n", "bad.csv: expected at least 10 rows of numbers, got 1"),
    "empty": ("", "bad.csv: expected at least 10 rows of numbers, got 0"),
    "constant": ("a,b\n" + "".join(f"{i},7\n" for i in range(20)), "column 'b' is 7 in all training rows"),
    "bytes": ("a,\xff\n", "bad.csv': expected a csv file as UTF-8 text"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_table_is_told_with_file_and_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, told = BAD[kind]
    (tmp_path / "bad.csv").write_bytes(text.encode("latin-1"))
    words = ["architecture=real_nvp", "data=table", f"data.file={tmp_path / 'bad.csv'}", f"folder={tmp_path / 'run'}"]
    assert main(["train", *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({}, "data.file: expected the path of a table"),
        ({"file": "nowhere.csv"}, "data.file: cannot read 'nowhere.csv': No such file"),
        ({"file": "own.xlsx"}, "expected FILE.csv or FILE.npy"),
        ({"file": "own.csv", "test_share": 1.0}, "data.test_share: expected a share of the rows"),
        ({"file": "cube.npy"}, r"expected numbers of shape \(rows, columns\), got float64 \(2, 2, 2\)"),
        ({"file": "hole.npy"}, "row 1, column 0: expected a finite number, got inf"),
        ({"file": "broken.npy"}, "cannot be read as an npy"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(
    words: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path).with_name("own.xlsx").touch()
    np.save("cube.npy", np.zeros((2, 2, 2)))
    np.save("hole.npy", np.array([[1.0], [np.inf]]))
    Path("broken.npy").write_bytes(b"no numbers")
    with pytest.raises(SchemenetError, match=told):
        DATA.build({"name": "table", **words}, seed=0).check()


# Energies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ENERGIES)
def test_normalisers_by_another_quadrature(number: Any) -> None:
    data = Energy(number=number)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x = torch.from_numpy(8 * nodes)
    total = (
        64 * torch.from_numpy(weights) @ (-ENERGIES[number](x[:, None], x[None, :])).exp() @ torch.from_numpy(weights)
    )
    assert data.log_normaliser == pytest.approx(math.log(float(total)), abs=1e-5)


def test_the_first_energy_at_a_point() -> None:
    x = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    assert float(Energy(number=1).energy(x)) == pytest.approx(-math.log(2) + (2 / 0.6) ** 2 / 2)
    assert float(Energy(number=2).energy(torch.tensor([[1.0, 0.6]]))) == pytest.approx(0.5)
    assert float(Energy(number=2).energy(torch.tensor([[5.0, 1.0]]))) == pytest.approx((1 / 0.4) ** 2 / 2)


# Runs ---------------------------------------------------------------------------------------------------

FEW = ["logger=csv", "optimizer=adamw", "optimizer.lr=0.01", "trainer.max_epochs=1", "data.batch_size=50"]
SETTINGS = {
    "plane": [*FEW, "data=plane", "data.train_size=200", "data.test_size=100"],
    "energy": [*FEW, "data=energy", "data.train_size=200", "data.test_size=100"],
    "digits_density": [*FEW, "data=digits_density", "data.limit_train=100", "data.limit_test=40"],
}
RUNS = {
    "ffjord": ["architecture=ffjord", "architecture.hidden=8", *SETTINGS["plane"]],
    "nice": ["architecture=nice", "architecture.hidden=8", *SETTINGS["digits_density"]],
    "planar_flow_vi": ["architecture=planar_flow_vi", "architecture.layers=4", *SETTINGS["energy"]],
}


def train(words: list[str], folder: Path) -> dict[str, Any]:
    assert main(["train", *words, f"folder={folder}"]) == 0
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, words in RUNS.items():
        train(words, folder / name)
    train(["architecture=real_nvp", *FEW, "data=table", f"data.file={table(folder, 300)}"], folder / "table")
    return {name: folder / name for name in (*RUNS, "table")}


def texts(figure: Figure) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes]


def test_a_run_measures_in_the_units_of_its_data(runs: dict[str, Path]) -> None:
    for name in ("ffjord", "nice", "table"):
        result = json.loads((runs[name] / "result.json").read_text())
        dims = result["layout"]["widths"][0]
        assert result["measure"] == "nats"
        assert result["test_bits_per_dim"] == pytest.approx(result["test_nats"] / dims / math.log(2), rel=1e-5)
    assert result["test_nats"] == pytest.approx(3 * 1.42 + math.log(50 * 0.01), abs=1.5)  # three normal columns
    result = json.loads((runs["planar_flow_vi"] / "result.json").read_text())
    assert result["measure"] == "kl"
    assert result["test_kl"] > 0


def test_a_run_is_evaluated_again_and_on_other_steps(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(runs["ffjord"]), "scheme=rk4", "grid=uniform", "grid.steps=6"]) == 0
    said = capsys.readouterr().out
    assert "result.json says the same" in said
    assert "the same weights, rk4, 6 steps" in said
    assert main(["eval", str(runs["nice"])]) == 0
    assert "symplectic_euler, 4 steps of h = 1" in capsys.readouterr().out
    assert main(["eval", str(runs["nice"]), "scheme=verlet"]) == 2
    assert "trained with sharing=per_step" in capsys.readouterr().err


def test_a_density_is_drawn(runs: dict[str, Path], tmp_path: Path) -> None:
    assert main(["figure", "density", str(runs["ffjord"]), "--out", str(tmp_path / "d.png")]) == 0
    figure = density.draw(runs["ffjord"])
    assert {"data: 100 test points", "log density of the model", "noise"} <= set(texts(figure))
    assert not clipped(figure)
    matched = texts(density.draw(runs["planar_flow_vi"]))
    assert {"log density to be matched", "layer 4 of 4"} <= set(matched)
    assert "log density of each" in texts(density.draw(runs["table"]))
    rows = density.draw(runs["nice"]).axes
    assert len(rows) % density.IMAGES == 0
    assert [ax.get_ylabel() for ax in rows[:: density.IMAGES]][:5] == ["data", "data", "samples", "samples", "noise"]


def test_samples_are_written_in_the_units_of_the_data(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.csv"
    assert main(["sample", str(runs["table"]), "n=500", f"out={out}"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with out.open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["length", "mass", "charge"]
    found = np.array(rows, float)
    assert found.shape == (500, 3)
    assert np.median(found, 0) == pytest.approx([0, 1000, 5], abs=60)
    for seed, same in ((0, True), (1, False)):
        assert main(["sample", str(runs["table"]), "n=500", f"seed={seed}", f"out={tmp_path / 's.npy'}"]) == 0
        assert np.allclose(np.load(tmp_path / "s.npy"), found) is same


def test_mistakes_of_sampling_are_told(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = str(runs["ffjord"])
    for words, told in {
        (): "sample: expected a run folder or a checkpoint first",
        ("nowhere",): "no run folder or checkpoint 'nowhere'",
        (run, "n=0"): "sample: n expected to be at least 1, got 0",
        (run, "n=many"): "sample: n expected a whole number, got 'many'",
        (run, "count=3"): "sample takes no 'count'",
        (run, "out=s.txt"): "out expected a file name that ends in .csv or .npy, got 's.txt'",
        (run, "out=nowhere/s.csv"): "out is in 'nowhere', which is no folder",
        (run, "100"): "cannot read '100'; expected KEY=VALUE",
    }.items():
        assert main(["sample", *words]) == 2
        assert told in capsys.readouterr().err


def test_a_classifier_has_no_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(["debug=fast", "data=moons", "architecture=mlp", "architecture.hidden=4", "logger=csv"], tmp_path)
    assert main(["sample", str(tmp_path)]) == 2
    assert "was trained on data=moons; expected a density" in capsys.readouterr().err


def test_what_is_estimated_has_a_standard_error(tmp_path: Path) -> None:
    path = tmp_path / "wide.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 65)))
    words = ["architecture=ffjord", "architecture.hidden=8", "architecture.draws=4", "scheme=rk4", "grid=uniform"]
    result = train([*words, "grid.steps=2", *FEW, "data=table", f"data.file={path}"], tmp_path / "run")
    assert 0 < result["test_standard_error"] < 0.1 * result["test_nats"]
