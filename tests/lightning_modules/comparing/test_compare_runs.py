"""Runs that exist, compared without training: what is an arm, what is refused, and what foreign folders cannot do."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from lightning_modules.cli import main
from lightning_modules.comparing.from_runs import read_runs
from lightning_modules.comparing.report.terminal import screen_table
from lightning_modules.comparing.statistics.summary import summarise
from lightning_modules.config.compose import compose
from schemes.errors import SchemenetError


@cache
def resnet() -> dict[str, Any]:
    return compose("train", ["architecture=resnet", "logger=csv"]).complete


def run(folder: Path, seed: int = 0, error: float | None = 0.1, changes: dict[str, Any] | None = None, **told) -> Path:
    """A run folder as training leaves it, unfinished without an error; ``changes`` are dotted keys of its config."""
    config = copy.deepcopy(resnet()) | {"seed": seed}
    for key, value in (changes or {}).items():
        *groups, last = key.split(".")
        section = config
        for group in groups:
            section = section[group]
        section[last] = value
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if error is not None:
        result = {"seed": seed, "status": "done", "epochs": 2, "test_error": error, "test_loss": 3 * error}
        result |= {"train_loss": error, "ledger": {"parameters": 40_000, "macs": 4e5, "batch_size": 64}}
        result |= {"layout": {"scheme": "forward_euler", "steps": [3, 2, 2], "stem": "conv"}}
        (folder / "result.json").write_text(json.dumps(result | {"versions": {"torch": "2.15.0"}} | told))
    return folder


def test_the_terminal_says_how_wide_the_table_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lightning_modules.comparing.report.write.write_of", lambda _: tmp_path)
    run(tmp_path / "euler")
    run(tmp_path / "rk", changes=swapped("rk4"))
    widths = []
    for columns in (80, 160):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["compare", "--runs", str(tmp_path), "--out", str(tmp_path / f"out{columns}")]) == 0
        shown = capsys.readouterr().out.split("\nreport")[0]
        widths.append(max(map(len, shown.splitlines())))
    assert widths[0] <= 80 < 120 < widths[1] <= 160


def swapped(scheme: str) -> dict[str, Any]:
    return {"scheme": {"name": scheme}}


def test_arms_are_what_the_networks_differ_in_and_pair_by_seed(tmp_path):
    for seed in range(6):
        run(tmp_path / "b" / f"euler{seed}", seed, 0.10 + 0.01 * seed)
        run(tmp_path / "a" / f"rk{seed}", seed, 0.05 + 0.011 * seed, swapped("rk4"))
    comparison = read_runs([tmp_path / "a", tmp_path / "b"])
    assert [arm.name for arm in comparison.arms] == ["resnet-rk4", "resnet-forward_euler"]
    assert (comparison.baseline, comparison.seeds, comparison.epochs) == ("resnet-forward_euler", (0, 1, 2, 3, 4, 5), 2)
    euler, rk4 = summarise(comparison)
    assert (euler.verdict, rk4.verdict) == ("baseline", "better")
    assert rk4.difference == pytest.approx(-0.05 + 0.001 * 2.5)
    assert "The arms differ in scheme.name." in screen_table(comparison)
    assert read_runs([tmp_path], baseline="resnet-rk4").baseline == "resnet-rk4"
    with pytest.raises(SchemenetError, match="did you mean 'resnet-rk4'"):
        read_runs([tmp_path], baseline="resnet-rk5")


@pytest.mark.parametrize(
    ("networks", "names"),
    [
        ([{}, {"architecture.depth": 32}], ["resnet depth=20", "resnet depth=32"]),
        (
            [{}, {**swapped("rk4"), "architecture.depth": 32}, {**swapped("rk4"), "architecture.depth": 44}],
            ["resnet-forward_euler", "resnet-rk4 depth=32", "resnet-rk4 depth=44"],
        ),
        ([{}, {"architecture.name": "lm_resnet", **swapped("linear_multistep")}], ["resnet", "lm_resnet"]),
        ([{}, {"gradient": {"name": "checkpoint"}}], ["resnet gradient=backprop", "resnet gradient=checkpoint"]),
        ([{}, {"sharing": "shared"}], ["resnet", "resnet sharing=shared"]),
        # one key is enough to tell them apart, and what a budget sets is not the one
        ([{}, {"architecture.depth": 32, "architecture.width": 0.5}], ["resnet depth=20", "resnet depth=32"]),
    ],
)
def test_names(tmp_path, networks, names):
    folders = [run(tmp_path / str(i), changes=changes) for i, changes in enumerate(networks)]
    assert [arm.name for arm in read_runs(folders).arms] == names


def test_another_recipe_is_refused_with_what_differs_unless_it_is_what_is_compared(tmp_path):
    for i, lr in enumerate((0.1, 0.1, 0.01)):
        run(tmp_path / str(i), seed=i % 2, error=0.1 + lr, changes={"optimizer.lr": lr, **swapped("rk4")})
    with pytest.raises(SchemenetError) as caught:
        read_runs([tmp_path])
    assert f"optimizer.lr: 0.1 in 2 of them ({tmp_path / '1'}), 0.01 in 1 of them" in str(caught.value)
    assert "trainer" not in str(caught.value)
    arms = read_runs([tmp_path], by=["optimizer.lr"]).arms
    assert [arm.name for arm in arms] == ["resnet optimizer.lr=0.1", "resnet optimizer.lr=0.01"]
    assert len(read_runs([tmp_path], by=["optimizer"]).arms) == 2
    with pytest.raises(SchemenetError, match=r"did you mean 'optimizer\.lr'"):
        read_runs([tmp_path], by=["optimizer.l"])


def test_what_depends_on_the_machine_or_on_old_defaults_is_no_difference(tmp_path):
    run(tmp_path / "here")
    there = {"data.workers": 8, "trainer.checkpoint_every_n_steps": 7, "logger": {"name": "wandb"}, "folder": "/x"}
    run(tmp_path / "there", 1, changes=there | {"trainer.of_a_later_version": None})
    comparison = read_runs([tmp_path])
    assert [arm.name for arm in comparison.arms] == ["resnet"]
    assert comparison.seeds == (0, 1)


def test_runs_that_have_no_test_error_because_they_held_out_a_share_are_not_taken_for_diverged(tmp_path):
    run(tmp_path / "whole")
    held_out = run(tmp_path / "held out", 1, changes={"data.validation": 0.1}, test_error=None, validation_error=0.1)
    with pytest.raises(SchemenetError, match=f"1 run held out data.validation .* leave {held_out} out"):
        read_runs([tmp_path])


def test_two_runs_of_one_arm_and_seed(tmp_path):
    first, second = run(tmp_path / "first", error=0.1), run(tmp_path / "second", error=0.2)
    with pytest.raises(SchemenetError, match=f"two runs of resnet with seed 0: {first} and {second}"):
        read_runs([tmp_path])
    copied = run(tmp_path / "copied", error=0.1)
    comparison = read_runs([first, first, copied])
    assert len(comparison.runs) == 1
    assert f"{copied} has the same result as {first}: one run, taken once." in comparison.remarks


def test_every_run_is_counted_whatever_became_of_it(tmp_path):
    run(tmp_path / "done", 0)
    run(tmp_path / "unfinished", 1, error=None)
    (run(tmp_path / "failed", 2, error=None) / "error.txt").write_text("Traceback\nMemoryError: no \x1b[31mroom\n")
    run(tmp_path / "diverged", 3, status="diverged", test_error=None)
    run(tmp_path / "rk4", 4, changes=swapped("rk4"))
    (tmp_path / "never").mkdir()
    (tmp_path / "never" / "run.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    comparison = read_runs([tmp_path, tmp_path / "empty"])
    euler = {r.seed: (r.status, r.reason) for r in comparison.of("resnet-forward_euler")}
    assert [euler[seed][0] for seed in range(5)] == ["done", "missing", "failed", "diverged", "missing"]
    assert euler[2][1] == "MemoryError: no \N{REPLACEMENT CHARACTER}[31mroom"
    assert euler[4][1] == "none of the folders holds it"
    assert f"NOT COUNTED: {tmp_path / 'never'} holds no config.json: a run that never started" in comparison.remarks
    assert f"{tmp_path / 'empty'}: no run in it (no config.json)." in comparison.remarks
    assert summarise(comparison)[0].counts == {"done": 1, "diverged": 1, "failed": 1, "missing": 2}


def test_of_a_comparison_only_its_arms_are_read(tmp_path):
    run(tmp_path / "resnet" / "seed0")
    run(tmp_path / "resnet" / "tuning" / "lr0.01-seed1000", changes={"optimizer.lr": 0.01})
    (tmp_path / "comparison.json").write_text("{}")
    for given in (tmp_path, tmp_path / "resnet"):
        assert [r.folder for r in read_runs([given]).runs] == [tmp_path / "resnet" / "seed0"]


def test_mixed_versions_are_told(tmp_path):
    run(tmp_path / "0", 0)
    run(tmp_path / "1", 1, versions={"torch": "2.9.1"})
    assert "MIXED VERSIONS: runs were trained with torch 2.15.0 and 2.9.1." in screen_table(read_runs([tmp_path]))


def test_the_command_writes_a_report_and_nothing_else(tmp_path, capsys):
    for seed in range(2):
        run(tmp_path / "euler" / f"{seed}", seed, 0.1 + 0.01 * seed)
        run(tmp_path / "rk4" / f"{seed}", seed, 0.2, swapped("rk4"))
    run(tmp_path / "control", 0, 0.3, {"architecture.name": "stem_only"})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    out = tmp_path / "compared"
    arguments = ["compare", "--runs", str(tmp_path / "euler"), str(tmp_path / "rk4"), str(tmp_path / "control")]
    assert main([*arguments, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "Comparison of existing runs, 2 arms and 1 control on digits" in told
    assert f"report: {out / 'report.html'}" in told
    written = {path.name for path in out.iterdir()}
    assert written >= {"report.html", "report.md", "results.csv", "summary.csv", "compared.json"}
    assert before == {path: path.read_bytes() for path in before}
    assert json.loads((out / "compared.json").read_text())["runs"]["resnet-rk4"]["1"] == str(tmp_path / "rk4" / "1")

    (out / "comparison.json").write_text("{}")
    for wrong, message in (
        ([*arguments, "--out", str(out)], "holds a comparison"),
        ([*arguments, "seeds=3"], "there is no folder 'seeds=3'; nothing is trained here"),
        ([*arguments, "--jobs", "3"], "compare takes no '--jobs'"),
        (["compare", "--runs"], "expected at least one argument"),
        (["compare", "--runs", str(tmp_path / "nowhere")], "there is no folder"),
        (["compare", "--runs", str(out / "report.md")], "no run that can be read"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err


NASTY: list[Any] = [
    None,
    True,
    -1,
    1e400,
    10**400,
    "",
    "../../x",
    "=cmd()",
    "\x1b[2J\u202e\ud800",
    [],
    [[[]]],
    {},
    {"a": {}},
]


@pytest.mark.parametrize("value", NASTY, ids=range(len(NASTY)))
def test_values_of_any_kind_in_foreign_files_are_told_or_shown(tmp_path, value):
    """Each value in each place: a message, or a report within its folder."""
    for key in ("seed", "architecture", "architecture.name", "scheme.name", "data.name", "trainer.max_epochs", "field"):
        folder = tmp_path / key
        run(folder / "good", 1)
        run(folder / "crafted", 2, changes={key: value})
        try:
            shown = screen_table(read_runs([folder]))
        except SchemenetError as error:
            shown = str(error)
        assert "\x1b" not in shown
        shown.encode()
    for key in ("seed", "status", "reason", "epochs", "test_error", "ledger", "layout", "versions"):
        folder = run(tmp_path / f"result-{key}")
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | {key: value}))
        shown = screen_table(read_runs([folder]))
        assert "\x1b" not in shown
        shown.encode()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, "\xff", '{"seed": NaN}', '{"architecture": {"name": 3}}']
)
def test_files_that_are_no_json_of_a_run_are_told(tmp_path, text):
    run(tmp_path / "good")
    broken = run(tmp_path / "broken", 1)
    (broken / "config.json").write_text(text, encoding="latin-1")
    comparison = read_runs([tmp_path])
    assert len(comparison.runs) == 1
    assert any("NOT COUNTED" in remark and "broken" in remark for remark in comparison.remarks)
    (tmp_path / "good" / "result.json").write_text(text, encoding="latin-1")
    assert read_runs([tmp_path]).runs[0].status == "failed"


def test_a_foreign_run_writes_nothing_outside_the_report_and_no_formula_into_it(tmp_path):
    crafted = {"architecture.note": "=HYPERLINK()", "field": {"name": "<img src=x>", "../../evil": "[a](javascript:1)"}}
    run(tmp_path / "in" / "good", 0)
    run(tmp_path / "in" / "crafted", 0, 0.2, crafted, status="failed", reason="=cmd|' /C calc'!A0")
    (tmp_path / "in" / "good" / "last.ckpt").write_bytes(b"not to be loaded")
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "out"
    assert main(["compare", "--runs", str(tmp_path / "in"), "--out", str(out)]) == 0
    assert {path for path in set(tmp_path.rglob("*")) - before if out not in (path, path.parent)} == set()
    assert not (out / "stability.png").exists()
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render((out / "report.md").read_text())
    assert "&lt;img src=x&gt;" in shown
    assert "<img src=x" not in shown
    assert "javascript" not in "".join(re.findall(r'href="[^"]*"', shown))
    assert "'=cmd" in (out / "results.csv").read_text()
