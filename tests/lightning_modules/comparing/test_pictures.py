"""The pictures of a comparison: what is drawn of fabricated runs, and what is not for want of data."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from lightning_modules.cli import main
from lightning_modules.comparing import records as runs
from lightning_modules.comparing.report.figures import coefficients, costs, evaluations, interactive, stability
from lightning_modules.comparing.report.figures import draw_all as plots
from lightning_modules.comparing.report.figures import learning_curves as curves
from lightning_modules.comparing.report.figures.arms import looks_of, over_seeds, smooth
from lightning_modules.comparing.statistics import summary as statistics
from lightning_modules.plotting.style import MARKERS
from tests.lightning_modules.plotting.test_plots import clipped

EPOCHS, STEPS, BATCH = 4, 10, 32


def fabricate(folder: Path, arms: int = 3, seeds: int = 2, **columns: Any) -> Path:
    """Runs of arms a0, a1, ...: each costs more than the one before; ``columns`` are further ones of metrics.csv."""
    names = [f"a{i}" for i in range(arms)]
    for i, name in enumerate(names):
        for seed in range(seeds):
            place = folder / name / f"seed{seed}"
            place.mkdir(parents=True)
            error = 0.1 / (1 + i % 5) + 0.01 * seed
            ledger = {"parameters": 1000 + i, "macs": 1e6 * (1 + i), "batch_size": BATCH}
            result = {"arm": name, "seed": seed, "status": "done", "epochs": EPOCHS, "test_error": error}
            (place / "result.json").write_text(json.dumps(result | {"ledger": ledger}))
            rows = []
            for epoch in range(EPOCHS):
                end = STEPS * (epoch + 1) - 1
                rows += [{"epoch": epoch, "step": end - 5, "train/loss": 1 / (1 + epoch)}]
                rows += [{"epoch": epoch, "step": end, "test/error": error * (EPOCHS - epoch)}]
                rows += [{"epoch": epoch, "step": end} | {key: value(i, epoch) for key, value in columns.items()}]
            with (place / "metrics.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0] | rows[1] | rows[2]))
                writer.writeheader()
                writer.writerows(rows)
    plan = {"baseline": "a0", "seeds": list(range(seeds)), "arms": [{"name": name} for name in names]}
    (folder / "comparison.json").write_text(json.dumps(plan | {"data": "digits", "epochs": EPOCHS}))
    return folder


def with_ledger(folder: Path, **costs_of: Any) -> Path:
    for i, arm in enumerate(sorted(folder.glob("a*"))):
        for path in arm.glob("seed*/result.json"):
            told = json.loads(path.read_text())
            told["ledger"] |= {name: value(i) for name, value in costs_of.items()}
            path.write_text(json.dumps(told))
    return folder


def drawn(picture: Any, folder: Path) -> Any:
    comparison = runs.read_comparison(folder)
    summaries = statistics.summarise(comparison)
    return picture.draw(comparison, summaries, looks_of(summaries))


def labels(figure: Figure) -> list[str]:
    return [ax.get_xlabel() for ax in figure.axes if ax.axison]


def test_pareto_front_has_those_that_nothing_beats() -> None:
    points = [(3.0, 1.0), (1.0, 5.0), (2.0, 5.0), (2.0, 2.0), (4.0, 1.0), (2.5, 3.0), (1.0, 6.0)]
    assert costs.pareto(points) == [(1.0, 5.0), (2.0, 2.0), (3.0, 1.0)]
    assert costs.pareto([]) == []


def test_what_was_not_measured_has_no_panel_and_the_front_is_a_staircase(tmp_path: Path) -> None:
    figure, caption, _ = drawn(costs, fabricate(tmp_path))
    assert labels(figure) == ["multiply-adds (MACs), forward, a sample"]
    (front,) = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
    assert list(front.get_xdata()) == [1e6, 2e6, 3e6]
    assert list(front.get_ydata()) == pytest.approx([10.5, 5.5, 3.8333333])
    assert "Pareto front" in caption
    assert not clipped(figure)


@pytest.mark.parametrize(
    ("values", "same", "expected"),
    [
        ((1000, 1001, 1002), 0.01, False), ((985, 1012, 1000), 0.03, False), ((985, 1030, 1000), 0.01, True),
        ((0, 0, 0), 0.01, False), ((0, 0, 26), 0.01, False), ((0, 20, 26), 0.01, True), ((7,), 0.01, False),
    ],
)  # fmt: skip
def test_a_cost_that_tells_no_arms_apart_has_no_panel(values: Any, same: float, expected: bool) -> None:
    assert costs.tells([costs.Amount(value, value, value) for value in values], same) is expected


def test_what_has_no_panel_is_said(tmp_path: Path) -> None:
    folder = with_ledger(fabricate(tmp_path), nfe_backward=lambda i: 20.0 * (i == 2), nfe_forward=lambda i: 5 + i)
    figure, caption, _ = drawn(costs, folder)
    assert labels(figure) == ["multiply-adds (MACs), forward, a sample", "NFE: evaluations of f, forward"]
    assert "or most have none: parameters; NFE, backward" in caption


def test_pictures_without_data_are_not_there(tmp_path: Path) -> None:
    folder = fabricate(tmp_path)
    comparison = runs.read_comparison(folder)
    pictures = plots.write(comparison, statistics.summarise(comparison))
    assert list(pictures) == ["error_against_costs.png", "learning_curves.png"]
    assert all((tmp_path / name).stat().st_size > 10_000 and picture.caption for name, picture in pictures.items())
    assert drawn(coefficients, folder) is drawn(evaluations, folder) is drawn(stability, folder) is None


def test_a_picture_has_vector_files_its_numbers_and_an_interactive_form_with_the_same_panels(tmp_path: Path) -> None:
    nfe = {"nfe/forward/epoch": lambda i, epoch: 20 + i + epoch}
    folder = fabricate(tmp_path, **nfe)
    comparison = runs.read_comparison(folder)
    summaries = statistics.summarise(comparison)
    pictures = plots.write(comparison, summaries)
    assert len(pictures) == 3
    for name, picture in pictures.items():
        stem = name.removesuffix(".png")
        assert list(picture.files) == [f"{stem}.{kind}" for kind in ("png", "svg", "pdf", "csv")]
        assert ">a1</text>" in (folder / f"{stem}.svg").read_text(encoding="utf-8"), "text stays text"
        assert (folder / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
        with (folder / f"{stem}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert {row["arm"] for row in rows} == {"a0", "a1", "a2"}
        assert picture.spec is not None
        assert [arm["name"] for arm in picture.spec["usermeta"]["arms"]] == ["a0", "a1", "a2"]
        vl_convert.vegalite_to_vega(dict(picture.spec))  # raises where it is no Vega-Lite
        figure = plots.PICTURES[stem](comparison, summaries, looks_of(summaries)).figure  # type: ignore[union-attr]
        titles = [view["layer"][-1]["encoding"]["x"]["axis"]["title"] for view in picture.spec["concat"]]
        assert titles == labels(figure)
    assert interactive.SHAPES.keys() >= {look.marker for look in looks_of(summaries).values()} | set(MARKERS)


def test_a_single_epoch_has_a_row_for_each_arm(tmp_path: Path) -> None:
    folder = fabricate(tmp_path)
    for path in folder.glob("a*/seed*/metrics.csv"):
        path.unlink()
    for path in folder.glob("a*/seed*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 1}))
    figure, _, form = drawn(curves, folder)
    assert labels(figure) == ["test error, %, after one epoch"]
    assert [row["mean"] for row in form.rows] == pytest.approx([10.5, 5.5, 23 / 6])
    (view,) = form.spec["concat"]
    assert view["layer"][-1]["encoding"]["y"]["scale"]["domain"] == ["a0", "a1", "a2"]
    assert "→" not in vl_convert.vegalite_to_svg(form.spec)


def test_a_control_off_the_scale_of_a_single_epoch_has_its_number_at_the_edge(tmp_path: Path) -> None:
    folder = fabricate(tmp_path)
    plan = json.loads((folder / "comparison.json").read_text())
    plan["arms"][0]["control"], plan["baseline"] = True, "a1"
    (folder / "comparison.json").write_text(json.dumps(plan))
    for path in folder.glob("a*/seed*/result.json"):
        path.with_name("metrics.csv").unlink()
        result = json.loads(path.read_text()) | {"epochs": 1}
        path.write_text(json.dumps(result | ({"test_error": 0.9} if path.parts[-3] == "a0" else {})))
    spec = drawn(curves, folder).interactive.spec
    assert "90 →" in vl_convert.vegalite_to_svg(spec)


def test_a_figure_of_a_report_is_drawn_alone_in_the_size_of_a_paper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = str(fabricate(tmp_path)), tmp_path / "paper.svg"
    assert main(["figure", "error_against_costs", folder, "--out", str(out), "--size", "3.4x2.8", "--font", "8"]) == 0
    assert 'width="244.8pt" height="201.6pt"' in out.read_text(encoding="utf-8")
    assert "Points: means over finished seeds" in " ".join(capsys.readouterr().err.split())
    assert main(["figure", "evaluations", folder]) == 2
    assert main(["figure", "learning_curves", str(tmp_path / "a0")]) == 2
    message = capsys.readouterr().err
    assert "no finished run has what figure evaluations shows" in message
    assert "comparison.json" in message


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    name, comparison = r"a$\bad$", runs.read_comparison(fabricate(tmp_path))
    arms = tuple(replace(arm, name=name) if arm.name == "a1" else arm for arm in comparison.arms)
    of_arms = tuple(replace(run, arm=name) if run.arm == "a1" else run for run in comparison.runs)
    comparison = replace(comparison, arms=arms, runs=of_arms)
    pictures = plots.write(comparison, statistics.summarise(comparison))
    assert len(pictures) == 2
    assert ">a$\\bad$</text>" in (tmp_path / "learning_curves.svg").read_text(encoding="utf-8")


def test_long_curves_are_thinned_on_the_page_and_whole_in_the_csv() -> None:
    rows = [{"panel": "p", "arm": arm, "x": float(x), "mean": 1 / 3, "sd": 0.0} for arm in "ab" for x in range(1000)]
    values = interactive.figure([], rows, [], {}).spec["data"]["values"]
    assert len(values) == 2 * interactive.POINTS
    assert [(row["arm"], row["x"]) for row in values[:: interactive.POINTS]] == [("a", 0), ("b", 0)]
    assert values[-1] == {"panel": "p", "arm": "b", "x": 999, "mean": 0.333333, "sd": 0}


def test_a_loss_that_was_logged_once_has_no_panel(tmp_path: Path) -> None:
    folder = fabricate(tmp_path)
    for path in folder.glob("a*/seed*/metrics.csv"):
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if not row["train/loss"] or row["epoch"] == "0"]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    assert labels(drawn(curves, folder).figure) == ["epoch"]
    for path in [*folder.glob("a*/seed*/result.json"), *folder.glob("a*/seed*/metrics.csv")]:
        path.write_text(path.read_text().replace("test_error", "none").replace("test/error", "none"))
    assert drawn(curves, folder) is None


def test_curves_against_what_the_training_had_cost(tmp_path: Path) -> None:
    folder = fabricate(tmp_path)
    assert labels(drawn(curves, folder).figure) == ["epoch", "training step"]
    with_ledger(folder, train_flops=lambda i: 3e6 * (1 + i))
    figure, caption, _ = drawn(curves, folder)
    assert labels(figure) == ["epoch", "FLOPs of training", "training step", "FLOPs of training"]
    dearest = figure.axes[1].lines[-1]
    assert list(dearest.get_xdata()) == [9e6 * BATCH * STEPS * (1 + epoch) for epoch in range(EPOCHS)]
    assert list(dearest.get_ydata()) == pytest.approx([100 * (0.1 / 3 + 0.005) * k for k in (4, 3, 2, 1)])
    assert "samples seen" in caption
    assert not clipped(figure)
    for path in folder.glob("a2/seed*/result.json"):  # two devices, or gradients of two batches added up
        path.write_text(json.dumps(json.loads(path.read_text()) | {"samples_per_step": 2 * BATCH}))
    assert drawn(curves, folder).figure.axes[1].lines[-1].get_xdata()[-1] == 2 * dearest.get_xdata()[-1]


def test_evaluations_over_the_epochs_of_those_that_vary(tmp_path: Path) -> None:
    nfe = {"nfe/forward/epoch": lambda i, epoch: 20 + i + epoch if i else "", "nfe/backward/epoch": lambda i, epoch: 0}
    figure, caption, _ = drawn(evaluations, fabricate(tmp_path, **nfe))
    assert [ax.get_ylabel() for ax in figure.axes] == ["evaluations of f, forward"], "none backward"
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[21, 22, 23, 24], [22, 23, 24, 25]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a1", "a2"]
    assert "mean over the batches of an epoch" in caption
    assert figure.axes[0].get_ylim()[0] == 0


def test_learned_coefficients_are_means_over_seeds_with_their_ends(tmp_path: Path) -> None:
    folder = fabricate(tmp_path, **{"k/flow0/step1": lambda i, epoch: 0.1 * i * epoch if i else ""})
    for i, arm in enumerate(sorted(folder.glob("a*"))):
        for run in arm.glob("seed*"):
            scheme = {"name": "linear_multistep" if i else "heun"}
            (run / "config.json").write_text(json.dumps({"scheme": scheme, "architecture": {"name": "resnet"}}))
    other = folder / "a2" / "seed1" / "metrics.csv"
    other.write_text(other.read_text().replace("0.6000000000000001", "0.4"))
    figure, *_ = drawn(coefficients, folder)
    (ax,) = figure.axes
    points = [line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 1]
    assert [float(line.get_ydata()[0]) for line in points] == pytest.approx([0.3, 0.5])
    bars = [part for part in ax.collections if isinstance(part, LineCollection)]
    assert bars[-1].get_segments()[0][:, 1].tolist() == pytest.approx([0.4, 0.6])
    assert not clipped(figure)


def test_many_arms_are_told_apart_and_the_legend_covers_nothing(tmp_path: Path) -> None:
    folder = fabricate(tmp_path, arms=21)
    looks = looks_of(statistics.summarise(runs.read_comparison(folder)))
    assert len({(look.colour, look.marker) for look in looks.values()}) == 21
    assert len({(look.colour, look.line) for look in looks.values()}) == 21
    for picture in (costs, curves):
        figure, caption, _ = drawn(picture, folder)
        assert not clipped(figure)
        (box,) = [drawn.get_window_extent() for drawn in figure.legends]
        assert all(ax.get_tightbbox().y0 >= box.y1 - 1 for ax in figure.axes if ax.axison)
    assert "bands" not in caption, "twenty bands would hide one another"


def test_curves_over_seeds_are_at_what_all_of_them_logged() -> None:
    xs, means, sds = over_seeds([{1: 2.0, 2: 4.0, 3: 1.0}, {1: 4.0, 2: 4.0}, {}])
    assert (xs.tolist(), means.tolist()) == ([1, 2], [3.0, 4.0])
    assert sds == pytest.approx([np.sqrt(2), 0])
    assert smooth({0: 1.0, 5: 3.0}) == {0: 1.0, 5: 3.0}
    flat = smooth({i: float(i) for i in range(200)})
    assert flat[100] == pytest.approx(100)


def test_curves_of_runs_whose_steps_cost_different_amounts_have_their_points_in_common() -> None:
    done = [runs.Run("a0", s, "done", samples_per_step=10, ledger={"train_flops": 1e3 + s}) for s in (0, 2)]
    first, second = curves.curves_by_flops(done, [{0: 0.5, 9: 0.25}] * 2, scale=100)
    assert first == second == {1.001e4: 50, 1.001e5: 25}
    unknown = [done[0], runs.Run("a0", 3, "done")]
    assert curves.curves_by_flops(unknown, [{0: 0.5}] * 2) == [{}, {}]
