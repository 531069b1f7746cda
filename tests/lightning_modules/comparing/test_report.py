"""The reporting side of compare, on fabricated run folders: statistics, words by rule, tables, plots."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from rich.cells import cell_len

from lightning_modules.comparing import records as runs
from lightning_modules.comparing.recipe import settings
from lightning_modules.comparing.report import formatting as numbers
from lightning_modules.comparing.report import html as page
from lightning_modules.comparing.report import markdown, templates
from lightning_modules.comparing.report import terminal as screen
from lightning_modules.comparing.report import write as report
from lightning_modules.comparing.report.facts import Facts
from lightning_modules.comparing.statistics import summary as statistics
from lightning_modules.comparing.statistics.rule import SignFlipRule
from schemes.errors import SchemenetError

ARMS = {  # name: (word, scheme, mean error, MACs, NFE, bytes kept, seconds a step, control)
    "resnet": ("forward_euler", "forward_euler", 0.012, 31.2e6, 7, 60e6, 0.12, False),
    "polynet": ("backward_euler_poly", "backward_euler_poly", 0.0131, 45e6, 14, 105e6, 0.21, False),
    "fractalnet": ("rk2", "fractal", 0.0118, 33e6, 21, 88e6, 0.19, False),
    "rk_resnet": ("rk2", "heun", 0.0124, 62e6, 14, 110e6, 0.25, False),
    "lm_resnet": ("linear_multistep", "linear_multistep", 0.0119, 31.3e6, 7, 63e6, 0.13, False),
    "revnet": ("reversible", "symplectic_euler", 0.0126, 30.1e6, 14, 9e6, 0.18, False),
    "ode_net": ("ode_net", "dopri5", 0.0137, 210e6, 78, 12e6, 0.95, False),
    "stem_only": ("", "", 0.105, 1.1e6, 0, 5e6, 0.02, True),
    "one_block": ("", "forward_euler", 0.021, 13e6, 3, 27e6, 0.05, True),
}


def fabricate(folder: Path, seeds=(0, 1, 2), epochs=1, arms=ARMS, errors=None, spread=0.0008) -> Path:
    """A comparison folder as the runner leaves it; ``errors`` gives {arm: {seed: error}} to take."""
    noise = np.random.default_rng(0)
    plan = {"command": "schemenet compare data=mnist | tee log", "budget": 219873, "baseline": "resnet"}
    plan |= {"seeds": list(seeds), "data": "mnist", "epochs": epochs, "machine": "2 cores, no accelerator"}
    plan |= {
        "recipe": {"optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": 128},
        "versions": {"torch": "2.8.0"},
    }
    plan["arms"] = []
    for name, (word, scheme, error, macs, nfe, kept, step, control) in arms.items():
        parameters = {"stem_only": 1500, "one_block": 76000}.get(name, 219873 + len(name))
        sizes = {"steps": "3-2-2", "h": 1.0, "widths": [15, 30, 60], "inner": [15, 30, 60], "stem": "conv3x3"}
        sizes |= {"norm": "batch", "parameters": parameters}
        plan["arms"] += [
            {"name": name, "word": word, "architecture": name, "scheme": scheme, "control": control}
            | {"matched": not control, "sizes": sizes}
        ]
        time = {"median_s": step, "quartile_1_s": 0.97 * step, "quartile_3_s": 1.05 * step, "steps": 40}
        write_json(folder / name / "step_time.json", time | {"threads": 2, "device": "cpu", "batch_size": 128})
        for seed in seeds:
            value = errors[name][seed] if errors else max(error + spread * noise.standard_normal(), 1e-4)
            ledger = {"parameters": parameters, "flow_parameters": int(0.93 * parameters), "macs": macs}
            ledger |= {"nfe_forward": nfe, "nfe_backward": nfe, "bytes_kept": kept, "peak_bytes": 1.6 * kept}
            result = {"arm": name, "seed": seed, "status": "done", "epochs": epochs, "test_error": value}
            result |= {"test_loss": 3 * value, "train_loss": 0.05, "ledger": ledger | {"batch_size": 128}}
            write_json(folder / name / f"seed{seed}" / "result.json", result)
            rows = ["epoch,step,train/loss,test/loss,test/error"]
            for epoch in range(epochs):
                for i in range(0, 468, 10):
                    loss = 2.3 * math.exp(-(468 * epoch + i) / 150) + 4 * error * math.exp(
                        0.3 * noise.standard_normal()
                    )
                    rows += [f"{epoch},{468 * epoch + i},{loss},,"]
                now = value * (1 + 4 * math.exp(-epoch) - 4 * math.exp(1 - epochs))
                rows += [f"{epoch},{468 * (epoch + 1) - 1},,{3 * now},{now}"]
            (folder / name / f"seed{seed}" / "metrics.csv").write_text("\n".join([*rows, ""]))
    write_json(folder / "comparison.json", plan)
    return folder


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def spoil(folder: Path, arm: str, which: int, **changes) -> None:
    path = folder / arm / f"seed{which}" / "result.json"
    write_json(path, json.loads(path.read_text()) | changes)


def fail(folder: Path, arm: str, seed: int, text: str | None) -> None:
    """Without a text the run is missing."""
    (folder / arm / f"seed{seed}" / "result.json").unlink()
    if text is not None:
        (folder / arm / f"seed{seed}" / "error.txt").write_text(text)


def of(summaries, name):
    return next(s for s in summaries if s.arm.name == name)


@pytest.fixture
def damaged(tmp_path):
    """Failed, diverged twice (once unsaid, as NaN), missing, and an unreadable result."""
    folder = fabricate(tmp_path)
    fail(folder, "rk_resnet", 1, "Traceback (most recent call last):\n  ...\nMemoryError: 12 | 13 GB\n\n")
    spoil(folder, "polynet", 0, status="diverged", test_error=None)
    spoil(folder, "lm_resnet", 2, test_error=math.nan)
    fail(folder, "ode_net", 0, None)
    fail(folder, "ode_net", 2, None)
    (folder / "revnet" / "seed2" / "result.json").write_text('{"arm": "rev')
    return folder


# -------------------------------------------------------------------------------- pairs


def test_pairs_are_the_common_seeds(damaged):
    comparison = runs.read_comparison(damaged)
    summary = of(statistics.summarise(comparison), "rk_resnet")
    error = {(run.arm, run.seed): run.value for run in comparison.runs}
    assert summary.pairs == (0, 2)
    expected = np.mean([error["rk_resnet", seed] - error["resnet", seed] for seed in (0, 2)])
    assert summary.difference == pytest.approx(expected)
    assert "rk_resnet: its difference is over seeds 0, 2" in screen.screen_table(comparison)


# -------------------------------------------------------------------------------- controls


def controls(folder, errors):
    arms = {name: ARMS[name] for name in errors}
    planned = tuple(next(iter(errors.values())))
    comparison = runs.read_comparison(fabricate(folder, planned, arms=arms, errors=errors))
    return " ".join(templates.sentences("controls", Facts.of(comparison)))


def test_controls_that_lose_clearly(tmp_path):
    base = {seed: 0.010 + 0.001 * seed for seed in range(6)}
    control = {seed: 0.030 + 0.0012 * seed for seed in range(6)}
    assert "controls lose clearly" in controls(tmp_path / "six", {"resnet": base, "one_block": control})
    five = {"resnet": dict(list(base.items())[:5]), "one_block": dict(list(control.items())[:5])}
    assert "it is open" in controls(tmp_path / "five", five)


@pytest.mark.parametrize(
    "control",
    [
        {0: 0.011, 1: 0.010, 2: 0.014},  # not separated
        {0: 0.0110, 1: 0.0121, 2: 0.0130},  # worse, but within the factor
        {0: 0.001, 1: 0.0021, 2: 0.003},  # better
    ],
)
def test_a_control_as_good_as_the_baseline_is_told(tmp_path, control):
    base = {0: 0.010, 1: 0.011, 2: 0.012}
    said = controls(tmp_path, {"resnet": base, "stem_only": control})
    assert "stem_only makes at most 1.25 times the error of the baseline" in said
    assert "HARDLY SEPARATES ARCHITECTURES" in said


def test_controls_with_one_seed(tmp_path):
    assert "it is open" in controls(tmp_path / "far", {"resnet": {0: 0.01}, "one_block": {0: 0.03}})
    assert "HARDLY SEPARATES" in controls(tmp_path / "near", {"resnet": {0: 0.01}, "one_block": {0: 0.011}})
    assert "No control was run" in controls(tmp_path / "none", {"resnet": {0: 0.01}, "revnet": {0: 0.011}})


# -------------------------------------------------------------------------------- reading


def test_a_folder_that_is_no_comparison(tmp_path):
    with pytest.raises(SchemenetError, match=tmp_path.name):
        runs.read_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text('{"seeds": [0]}')
    with pytest.raises(SchemenetError, match=r"comparison\.json.*'arms'"):
        runs.read_comparison(tmp_path)


def test_every_planned_run_is_accounted_for(damaged):
    comparison = runs.read_comparison(damaged)
    assert len(comparison.runs) == len(ARMS) * 3
    status = {(run.arm, run.seed): (run.status, run.reason) for run in comparison.runs}
    assert status["rk_resnet", 1] == ("failed", "MemoryError: 12 | 13 GB")
    assert status["polynet", 0][0] == "diverged"
    assert status["lm_resnet", 2] == ("diverged", "the test error is not a finite number")
    assert status["ode_net", 0][0] == "missing"
    assert status["revnet", 2][0] == "failed"
    assert "cannot be read" in status["revnet", 2][1]


def test_a_result_of_another_run_is_refused(tmp_path):
    spoil(fabricate(tmp_path), "revnet", 1, seed=0)
    run = runs.read_comparison(tmp_path).of("revnet")[1]
    assert (run.status, run.reason) == ("failed", "NOT COUNTED: result.json is of another run (seed 0, not 1)")


def test_sparse_metrics(tmp_path):
    run = runs.read_comparison(fabricate(tmp_path, epochs=2)).runs[0]
    assert list(runs.read_metrics(run, "test/error", against="epoch")) == [0, 1]
    assert len(runs.read_metrics(run, "train/loss")) == 94
    assert runs.read_metrics(run, "no/such") == {}


# -------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (219873, "", "219.9 k"),
        (31.2e6, "", "31.2 M"),
        (12.3e6, "B", "12.3 MB"),
        (999_960, "", "1.0 M"),
        (850, "", "850"),
        (850, "B", "850 B"),
        (7.5, "", "7.5"),
        (0, "", "0"),
        (None, "B", "-"),
    ],
)
def test_human(number, unit, text):
    assert numbers.human(number, unit) == text


def test_screen(damaged):
    text = screen.screen_table(runs.read_comparison(damaged))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    place = {line.split()[0]: i for i, line in reversed(list(enumerate(lines))) if line}
    assert place["resnet"] < place["ode_net"] < place["stem_only"]
    rule = next(i for i, line in enumerate(lines) if line.startswith("-- controls"))
    assert place["ode_net"] < rule < place["stem_only"]
    row = lines[place["revnet"]]
    for cell in ("symplectic_euler", "(2/3)", "219.9 k", "30.1 M", " 14 ", " 9.0", "1.50×"):
        assert cell in row
    assert "*" in lines[place["polynet"]]
    assert "flatter an arm that diverged" in " ".join(text.split())
    assert "rk_resnet seed 1 failed: MemoryError" in text
    assert "lm_resnet seed 2 diverged" in text
    assert "2 of 27 runs missing" in text


def test_screen_stays_within_the_terminal(tmp_path):
    long = {f"linear_multistep_of_many_words_{i}": ARMS["polynet"] for i in range(2)}
    errors = {name: {0: 0.1, 1: 0.9} for name in long} | {"resnet": {0: 0.5, 1: 0.2}}
    folder = fabricate(tmp_path, (0, 1), arms={"resnet": ARMS["resnet"]} | long, errors=errors)
    for width in (160, 120, 80, 60):
        text = screen.screen_table(runs.read_comparison(folder), width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
    assert "linear_multistep_of_many_words_1" in screen.screen_table(runs.read_comparison(folder), 160)


def test_names_of_wide_letters_shift_no_column(tmp_path):
    comparison = runs.read_comparison(fabricate(tmp_path))
    wide = {"rk_resnet": "残差ネット", "revnet": "可逆"}
    arms = tuple(replace(arm, name=wide.get(arm.name, arm.name)) for arm in comparison.arms)
    of_arms = tuple(replace(run, arm=wide.get(run.arm, run.arm)) for run in comparison.runs)
    comparison = replace(comparison, arms=arms, runs=of_arms)
    lines = screen.screen_table(comparison, 120).splitlines()
    assert len({cell_len(line) for line in lines if line.endswith("×")}) == 1


def test_a_narrow_screen_shows_the_results_first_and_breaks_no_word(tmp_path):
    comparison = runs.read_comparison(fabricate(tmp_path, range(8)))
    wide, narrow = (screen.screen_table(comparison, width) for width in (160, 80))
    assert wide.split("\n\n")[1].splitlines()[0].split() == (
        [
            "arm",
            "scheme",
            "test",
            "error",
            "%",
            "difference",
            "[95%]",
            "verdict",
            "p",
            "Holm",
            "params",
            "MACs",
            "NFE",
            "kept",
            "MB",
            "step",
        ]
    )
    results, costs = (table.splitlines() for table in narrow.split("\n\n")[1:3])
    assert results[0].split() == ["arm", "test", "error", "%", "difference", "[95%]", "verdict", "p", "Holm"]
    assert costs[0].split() == ["arm", "scheme", "params", "MACs", "NFE", "kept", "MB", "step"]
    assert [line.split()[0] for line in results[2:9]] == [line.split()[0] for line in costs[2:9]] == list(ARMS)[:7]
    assert results[9].startswith("-- controls: not matched to the budget ---")
    assert sorted(narrow.split("Test error")[1].split()) == sorted(wide.split("Test error")[1].split())


def test_nothing_measured_is_a_dash(tmp_path):
    folder = fabricate(tmp_path)
    (folder / "revnet" / "step_time.json").unlink()
    for seed in range(3):
        spoil(folder, "revnet", seed, ledger={})
        fail(folder, "lm_resnet", seed, "RuntimeError: no")
    summaries = statistics.summarise(runs.read_comparison(folder))
    revnet, lost = of(summaries, "revnet"), of(summaries, "lm_resnet")
    assert set(revnet.costs) == {"parameters"}  # planned, so known
    assert revnet.step_ratio is None
    assert (lost.mean, lost.difference, lost.verdict) == (None, None, "no seed in common")
    row = next(line for line in screen.screen_table(runs.read_comparison(folder)).splitlines() if "revnet" in line)
    assert row.split()[-4:] == ["-"] * 4


def test_a_mean_beside_the_measure_is_over_all_finished_runs_or_none(tmp_path):
    folder = fabricate(tmp_path)
    for seed in range(3):
        spoil(folder, "revnet", seed, test_loss=0.5 + seed)
        spoil(folder, "lm_resnet", seed, test_loss=0.5 if seed else None)  # no finite number
    summaries = statistics.summarise(runs.read_comparison(folder))
    assert of(summaries, "revnet").other_measures["loss"] == (1.5, 1.0)
    assert of(summaries, "lm_resnet").other_measures["loss"] == (None, None)


def test_a_network_that_was_trained_with_noise_has_both_numbers(tmp_path):
    folder = fabricate(tmp_path)
    for seed in range(3):
        spoil(folder, "fractalnet", seed, test_error_by_running_statistics=0.5)
    comparison = runs.read_comparison(folder)
    summaries = statistics.summarise(comparison)
    assert of(summaries, "fractalnet").other_measures["error_by_running_statistics"] == (0.5, 0.0)
    (told,) = [note for note in templates.sentences("notes", Facts.of(comparison)) if "drawn at random" in note]
    assert told.startswith("fractalnet: ")
    assert '"by running statistics"' in told


def test_step_ratio_only_under_equal_conditions(tmp_path):
    folder = fabricate(tmp_path)
    write_json(folder / "revnet" / "step_time.json", {"median_s": 0.1, "threads": 8, "device": "cpu"})
    comparison = runs.read_comparison(folder)
    assert of(statistics.summarise(comparison), "revnet").step_ratio is None
    assert "revnet: timed on another device" in screen.screen_table(comparison)


def test_unequal_training_is_told(tmp_path):
    folder = fabricate(tmp_path)
    spoil(folder, "revnet", 1, epochs=7)
    assert "revnet: not trained for the planned 1 epoch (seed 1: 7)" in screen.screen_table(
        runs.read_comparison(folder)
    )


# -------------------------------------------------------------------------------- files


def test_report(damaged):
    report.write(damaged)
    path = damaged / "report.md"
    text = path.read_text(encoding="utf-8")
    for told in (
        "schemenet compare data=mnist",
        "| optimizer.lr | 0.1 |",
        "torch = 2.8.0",
        "2 threads on cpu",
        "40 steps",
    ):
        assert told in text
    for told in (
        "15-30-60",
        "conv3x3",
        "MemoryError: 12",
        "2 of 27 runs missing",
        "(error_against_costs.png)",
    ):
        assert told in text
    for head in (
        "## Test error",
        "### What the controls say",
        "## Costs",
        "## Sizes",
        "## Runs that are not done",
    ):
        assert head in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    for table in tables:  # every row of a table has as many cells as its head
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_nothing_empty_is_shown(tmp_path):
    text = report_text(fabricate(tmp_path))
    assert "Runs that are not done" not in text
    head = next(line for line in text.splitlines() if line.startswith("| arm | scheme"))
    assert "bootstrap" not in head
    assert "not done" not in head
    assert "Bootstrap" not in text
    assert "Bootstrap" in report_text(eight_seeds(tmp_path / "eight"))


def test_the_recipe_is_folded_and_begins_with_what_is_not_the_default(tmp_path):
    recipe = {"data": {"name": "digits", "batch_size": 32}, "optimizer": {"name": "sgd", "momentum": 0.9, "lr": 0.7}}
    found = settings(recipe | {"other": {"key": None}})
    assert (
        [s for s in found if s.differs]
        == found[:2]
        == [
            ("data.batch_size", "32", "128"),
            ("optimizer.lr", "0.7", "0.1"),
        ]
    )
    assert [s.default for s in found if s.key in ("other.key", "optimizer.momentum")] == ["0.9", None]
    of_runs = settings({"optimizer.name": "sgd", "optimizer.nesterov": "false", "data.name": "none such"})
    assert [s.differs for s in of_runs] == [False] * 3, "as JSON writes it"
    assert not any(s.differs for s in settings({"data": {"name": "of a package that is not here", "batch_size": 3}}))
    text = report_text(fabricate(tmp_path), recipe=recipe)
    assert "<details><summary>Recipe: 5 keys, not the default: data.batch_size, optimizer.lr</summary>" in text
    assert text.index("| **optimizer.lr** | 0.7 | 0.1 |") < text.index("| optimizer.momentum | 0.9 | 0.9 |")


def test_every_run_has_a_row_that_its_arm_leads_to(tmp_path):
    folder = fabricate(tmp_path)
    assert "| revnet | 1 | done |" in report_text(folder)
    comparison = runs.read_comparison(folder)
    text = page.render(templates.render(Facts.of(comparison)), folder)
    links = set(re.findall(r'<a href="#(runs-of-arm-\d)">', text))
    assert len(links) == len(ARMS)
    assert all(text.count(f' id="{link}"') == 1 for link in links)


def test_runs_are_links_to_their_folders_wherever_they_lie(tmp_path):
    folder = fabricate(tmp_path / "here", (0, 1), arms=THREE)
    comparison = runs.read_comparison(folder)
    hostile = tmp_path / "a](javascript:alert(1)) <b>|"
    hostile.mkdir()
    chosen = [replace(run, folder=hostile) if run.arm == "revnet" else run for run in comparison.runs]
    chosen[0] = replace(chosen[0], folder=folder / "deleted")
    text = templates.render(Facts.of(replace(comparison, runs=tuple(chosen))))
    html_text = page.render(text, folder)
    assert "| [lm_resnet/seed1](lm_resnet/seed1/) |" in text
    places = re.findall(r'<td[^>]*><a href="([^"#]*)"', html_text)
    assert places == ["resnet/seed1/", *[f"../{quote(hostile.name)}/"] * 2, "lm_resnet/seed0/", "lm_resnet/seed1/"]
    assert "../a](javascript:alert(1)) &lt;b&gt;|</a>" in html_text
    assert '<td data-value="deleted">deleted</td>' in html_text, "no link to what is not there"


def test_the_result_comes_first_and_conditions_are_folded_behind(tmp_path):
    folder = fabricate(tmp_path, (0, 1, 2))
    text = report.write(folder).with_suffix(".md").read_text(encoding="utf-8")
    first = [text.index(part) for part in ("too few seeds to judge", "(error_against_costs.png)", "## Test error")]
    last = [text.index(part) for part in ("## Costs", "(learning_curves.png)", "## Conditions", "<details>")]
    assert [*first, *last] == sorted([*first, *last])
    for name in ("error_against_costs", "learning_curves"):
        assert f"[svg]({name}.svg), [pdf]({name}.pdf), [csv]({name}.csv)" in text


def test_csv_parses_back(damaged):
    report.write(damaged)
    with (damaged / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["arm"], int(row["seed"])): row for row in csv.DictReader(file)}
    assert len(rows) == 27
    result = json.loads((damaged / "fractalnet" / "seed1" / "result.json").read_text())
    assert float(rows["fractalnet", 1]["test_error"]) == result["test_error"]
    assert float(rows["fractalnet", 1]["bytes_kept"]) == 88e6
    assert rows["rk_resnet", 1]["reason"] == "MemoryError: 12 | 13 GB"
    assert (rows["ode_net", 0]["status"], rows["ode_net", 0]["test_error"]) == ("missing", "")
    with (damaged / "summary.csv").open(newline="", encoding="utf-8") as file:
        arms = {row["arm"]: row for row in csv.DictReader(file)}
    assert list(arms) == list(ARMS)
    assert (arms["ode_net"]["done"], arms["ode_net"]["missing"], arms["ode_net"]["paired_seeds"]) == (
        "1",
        "2",
        "1",
    )
    summary = of(statistics.summarise(runs.read_comparison(damaged)), "revnet")
    assert float(arms["revnet"]["difference"]) == summary.difference
    assert (arms["revnet"]["difference_low"], arms["revnet"]["verdict"]) == ("", "too few seeds")
    assert arms["revnet"]["widths"] == "15 30 60"


def inked(path: Path) -> float:
    from matplotlib.image import imread

    return float((imread(path)[..., :3].min(axis=-1) < 0.9).mean())


@pytest.mark.parametrize(("seeds", "epochs"), [((0,), 1), ((0, 1), 3)])
def test_pictures(tmp_path, seeds, epochs):
    report.write(fabricate(tmp_path, seeds, epochs))
    for name in ("error_against_costs.png", "learning_curves.png"):
        assert inked(tmp_path / name) > 0.01


def test_one_seed(tmp_path):
    folder = fabricate(tmp_path, seeds=(3,))
    text = report.write(folder).with_suffix(".md").read_text(encoding="utf-8")
    assert "With 1 pair the exact two-sided sign-flip test cannot go below 2/2^1 = 1" in text
    assert "too few seeds to judge: polynet" in text
    assert "±" not in text.split("## Test error")[1].split("Test error of the last")[0]


def test_nothing_finished(tmp_path):
    folder = fabricate(tmp_path, seeds=(0,))
    for arm in ARMS:
        fail(folder, arm, 0, None)
    text = report.write(folder).with_suffix(".md").read_text(encoding="utf-8")
    assert "9 of 9 runs missing" in text
    assert "No finished run to plot" in text
    assert not list(folder.glob("*.png"))


def test_reading_and_tables_need_neither_torch_nor_matplotlib(tmp_path):
    fabricate(tmp_path, seeds=(0,))
    code = (
        "import sys; from lightning_modules.comparing.records import read_comparison;"
        "from lightning_modules.comparing.report.terminal import screen_table;"
        "from lightning_modules.comparing.report.write import write;"
        f"screen_table(read_comparison({str(tmp_path)!r}));"
        "assert 'matplotlib' not in sys.modules;"
        f"write({str(tmp_path)!r});"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


# -------------------------------------------------------------------------------- what the report says


def report_text(folder: Path, **changes) -> str:
    """The report's text, without pictures; ``changes`` are keys of comparison.json."""
    path = folder / "comparison.json"
    write_json(path, json.loads(path.read_text()) | changes)
    return templates.render(Facts.of(runs.read_comparison(folder)))


EIGHT = tuple(range(8))
THREE = {name: ARMS[name] for name in ("resnet", "revnet", "lm_resnet")}


def eight_seeds(folder: Path, shift: float = -0.002) -> Path:
    base = {seed: 0.020 + 0.001 * seed for seed in EIGHT}
    other = {seed: base[seed] + 0.0003 * (-1) ** seed for seed in EIGHT}
    better = {seed: base[seed] + shift - 0.0001 * seed for seed in EIGHT}
    errors = {"resnet": base, "revnet": better, "lm_resnet": other}
    return fabricate(folder, EIGHT, arms=THREE, errors=errors)


def test_eight_seeds_bear_a_claim(tmp_path):
    text = report_text(eight_seeds(tmp_path))
    assert "DEVELOPMENT RESULT" not in text
    assert "- better than resnet: revnet\n- not separated from resnet: lm_resnet\n" in text
    row = next(line for line in text.splitlines() if line.startswith("| revnet")).split(" | ")
    assert row[3] == "-0.24 [-0.26, -0.21]"  # the sixth of 255 means: of seeds 4, 6, 7, -0.2567
    assert row[5:9] == ["better", "0.0078", "0.016", "1.00 (8/8)"]
    assert "2/2^8 = 0.0078, by Holm's correction over 2 arms 0.016" in text


def test_fewer_seeds_say_what_they_cannot_show_and_how_many_it_takes(tmp_path):
    text = report_text(fabricate(tmp_path))
    needed = "**DEVELOPMENT RESULT, no claim: 3 paired seeds; a claim about 6 arms beside the baseline needs 8 seeds.**"
    assert needed in text
    assert "cannot go below 2/2^3 = 0.25, by Holm's correction over 6 arms 1: a difference of any size could be" in text
    assert "That takes 8 seeds; the finished runs are kept when seeds are added." in text


def test_what_so_many_pairs_can_show_is_told_as_it_was_tested():
    (of_one, *_) = SignFlipRule().describe_reach([24])
    assert of_one.startswith(
        "24 pairs of runs: the two-sided sign-flip test on 65536 drawn patterns can reach 3.1e-05."
    )
    assert SignFlipRule().describe_reach([8, 6])[0].startswith("Up to 8 pairs of runs: the exact")
    assert SignFlipRule().describe_reach([6, 5])[0].startswith("With up to 6 pairs the exact")


def test_a_diverged_run_takes_the_word_back_and_is_shown(tmp_path):
    folder = eight_seeds(tmp_path)
    spoil(folder, "revnet", 3, status="diverged", test_error=None)
    text = report_text(folder)
    row = next(line for line in text.splitlines() if line.startswith("| revnet")).split(" | ")
    assert row[2:6] == ["2.12 ± 0.24 (7/8)", "-0.24 [-0.26, +∞]", "-", "not separated\\*"]
    assert row[8:] == ["0.88 (7/8)", "+1.00", "8", "1 diverged |"]
    assert "cannot be called better" in text
    assert "revnet seed 3 diverged" in text


def test_a_failed_run_leaves_its_pair_out_and_marks_the_word(tmp_path):
    folder = eight_seeds(tmp_path)
    fail(folder, "revnet", 3, "MemoryError")
    text = report_text(folder)
    row = next(line for line in text.splitlines() if line.startswith("| revnet")).split(" | ")
    assert (row[5], row[10:]) == ("better\\*", ["7", "1 failed |"])
    assert "as few as 7 paired seeds; a claim about 2 arms" in text


def test_a_run_of_another_recipe_is_not_counted(tmp_path):
    folder = eight_seeds(tmp_path)
    plan = json.loads((folder / "comparison.json").read_text())
    arms = [arm | {"recipe": "aaaaaaaa"} for arm in plan["arms"]]
    for seed in EIGHT:
        spoil(folder, "revnet", seed, recipe="aaaaaaaa" if seed else "bbbbbbbb")
    text = report_text(folder, arms=arms)
    assert "NOT COUNTED: result.json is of another run (recipe bbbbbbbb, not aaaaaaaa)" in text
    assert of(statistics.summarise(runs.read_comparison(folder)), "revnet").counts["failed"] == 1


@pytest.mark.parametrize(
    ("budget", "headline", "fact"),
    [
        (219873, "219.9 k parameters", "219.9 k parameters, met by width within 1%"),
        ({"kind": "macs", "target": 31.2e6, "by": "depth", "tolerance": 0.02}, "31.2 M MACs", "by depth within 2%"),
        ({"kind": "train_flops", "target": 1e9, "by": "width", "tolerance": 0.01}, "1.0 G training FLOPs", "by width"),
        ({"kind": "bytes_kept", "target": 6e7, "by": "width", "tolerance": 0.01}, "60.0 MB kept", "60.0 MB kept, met"),
        ({"kind": "step_time", "target": 0.12, "by": "width", "tolerance": 0.1}, "120 ms a step", "within 10%"),
        (None, "8 seeds\n", "| budget | none |"),
    ],
)
def test_budgets_of_every_kind(tmp_path, budget, headline, fact):
    text = report_text(eight_seeds(tmp_path), budget=budget)
    assert headline in text.split("\n\n")[0] + "\n"
    assert fact in text


def test_costs_that_were_not_matched_are_told_as_multiples(tmp_path):
    folder = eight_seeds(tmp_path)
    for seed in EIGHT:
        path = folder / "revnet" / f"seed{seed}" / "result.json"
        ledger = json.loads(path.read_text())["ledger"]
        spoil(folder, "revnet", seed, ledger=ledger | {"macs": 62.4e6, "flow_parameters": 204_000, "train_flops": 3e9})
    text = report_text(folder)
    assert (
        "revnet: matched in parameters; MACs 2.00×, NFE forward 2.00×, NFE backward 2.00×, bytes kept 0.15×,"
        " peak bytes 0.15×, step time 1.50× of the baseline's."
        in " ".join(screen.screen_table(runs.read_comparison(folder)).split())
    )
    assert "matched in parameters;" not in text, "the table says it"
    assert "| revnet | 1.00× | 1.00× | 2.00× | 2.00× | 2.00× | 0.15× | 0.15× | 1.50× |" in text
    time = {"threads": 2, "device": "cpu", "batch_size": 128, "quartile_1_s": 0.1}
    write_json(folder / "revnet" / "step_time.json", {"median_s": 0.18, "quartile_3_s": 0.2, **time})
    assert "| 0.15× | 1.50× (quartiles overlap) |" in report_text(folder)
    macs = {"kind": "macs", "target": 31.2e6, "by": "width", "tolerance": 0.01}
    assert "revnet: counts as matched, but its MACs are +100.0% off the budget." in report_text(folder, budget=macs)


def test_all_pairs_of_arms(tmp_path):
    folder = fabricate(tmp_path, seeds=(0, 1))
    comparison = runs.read_comparison(folder)
    names = [arm.name for arm in comparison.arms if not arm.control]
    found = statistics.improvements(comparison, names)
    assert len(found) == 7 * 6
    for a, b in found:
        assert found[a, b][0] + found[b, a][0] == 2  # what one wins the other loses
    errors = {(run.arm, run.seed): run.value for run in comparison.runs}
    assert found["polynet", "fractalnet"][0] == sum(errors["polynet", s] < errors["fractalnet", s] for s in (0, 1))
    assert "### P(A better than B)" in report_text(folder)
    assert "### P(A better than B)" not in report_text(eight_seeds(tmp_path / "few"))


def test_tuning_is_shown_with_what_was_tried_and_chosen(tmp_path):
    tuning = {"lr": [0.03, 0.1, 0.3], "seeds": [100, 101], "validation": 0.1}
    tuning |= {"chosen": {"resnet": 0.1, "revnet": 0.3}}
    tuning |= {"notes": ["revnet: the best learning rate, 0.3, is the largest of the grid; widen the grid"]}
    tuning |= {
        "errors": {
            "resnet": {"0.03": [0.04, 0.05], "0.1": [0.02, 0.03], "0.3": [0.5, None]},
            "revnet": {"0.03": [0.04, 0.05], "0.1": [0.03, 0.03], "0.3": [0.01, 0.02]},
        }
    }
    text = report_text(eight_seeds(tmp_path), tuning=tuning)
    assert "| resnet | 4.50 (2) | **2.50 (2)** | 75.00 (2, 1 diverged) | 0.1 |" in text
    assert "- revnet: the best learning rate, 0.3, is the largest of the grid" in text
    assert "seeds 100, 101" in text
    assert "## Tuning" not in report_text(eight_seeds(tmp_path / "without"))


def test_a_sweep_has_no_words_and_says_briefly_that_it_has_no_controls(tmp_path):
    text = report_text(eight_seeds(tmp_path), kind="sweep", budget=None, arms=[{"name": name} for name in THREE])
    assert text.startswith("# Sweep of 3 arms on mnist: 1 epoch, 8 seeds\n")
    assert "| arm | matched |\n" in text, "nothing else is known of these arms' sizes"
    assert "No control was run" in text
    assert "What the controls say" not in text


def test_names_bring_neither_html_nor_links_nor_emphasis_into_markdown():
    text = "a*b and **strong** <img src=x> [a](javascript:1) `<i>` _c_ d_e"
    assert markdown.paragraph(text) == ("a\\*b and **strong** &lt;img src=x> [a]\\(javascript:1) `<i>` \\_c\\_ d_e")
    assert markdown.listed(["*b*", "# c"]) == "- \\*b\\*\n- \\# c"
    assert markdown.code("x ``` y") == "````\nx ``` y\n````"
    assert markdown.table(["a|b"], [["**c\nd**"]]) == "| a\\|b |\n| --- |\n| **c d** |"


def test_a_report_says_which_of_the_sets_under_one_name_it_is_of(damaged):
    comparison = replace(runs.read_comparison(damaged), data="plane", recipe={"data": {"set": "pinwheel"}})
    assert "on plane pinwheel:" in templates.sentence("headline", Facts.of(comparison))


class CountRule(SignFlipRule):
    """Another test: the p is the share of seeds that the baseline wins."""

    name, correction = "counting", "Simes"

    def p(self, differences):
        return sum(value >= 0 for value in differences) / len(differences) if differences else None

    def least_p(self, pairs):
        return 0.0

    def describe_test(self, pairs):
        return f"count of {pairs} wins"

    def interval(self, differences):
        return None


@pytest.mark.parametrize("rule", [CountRule(), SignFlipRule(alpha=0.3, fewest_for_claims=3)])
def test_another_rule_changes_verdicts_and_every_sentence(tmp_path, rule):
    comparison = runs.read_comparison(fabricate(tmp_path, errors=None))
    report.write_of(comparison, rule)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    page_text = (tmp_path / "report.html").read_text(encoding="utf-8")
    plain = report_text(tmp_path)
    assert "too few seeds" in plain
    lines = {"table": "| revnet", "caption": "Test error of the last", "reach": "pairs"}
    for name, start in lines.items():
        assert [line for line in text.splitlines() if start in line] != [
            line for line in plain.splitlines() if start in line
        ], name
    with (tmp_path / "summary.csv").open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert set(rule.columns) <= set(row)
    assert float(row["level"]) == rule.level
    if isinstance(rule, CountRule):
        for written in (text, page_text):
            assert "count of 3 wins" in written
            assert "Simes: adjusted for" in written
            assert not re.search("sign-flip|Holm", written)
    else:
        assert "[70%]" in text
        assert "at most 0.3" in text
        assert "95%" not in text
