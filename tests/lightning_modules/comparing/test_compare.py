"""The main job in small: plan, train side by side, skip what is done, survive failures, report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lightning_modules.cli import main
from lightning_modules.comparing.plan import make_plan
from lightning_modules.comparing.records import read_comparison
from lightning_modules.config.compose import compose
from lightning_modules.launching.job import read_job
from lightning_modules.launching.multi_process import train
from lightning_modules.storage.run_files import JOB
from lightning_modules.training import run
from schemes import SchemenetError
from tests.support.in_this_process import runs_in_this_process
from tests.support.overrides import but
from tests.support.run_folders import measured

SMALL = [
    "compare", "experiment=demo", "networks=[forward_euler,verlet:resnet]", "controls=[one_block]",
    "budget=8k", "budget.tolerance=0.05", "seeds=2", "trainer.max_epochs=1", "data.limit_train=128",
    "arms.resnet.depth=8", "arms.resnet-verlet.depth=8",
]  # fmt: skip


def test_plan_matches_sizes_and_pairs_everything_else() -> None:
    words = "networks=[forward_euler,rk2,reversible,ode_net]"
    plan = make_plan(compose("compare", ["experiment=demo", words]))
    names = [arm.name for arm in plan.arms]
    assert names == [
        "resnet", "fractalnet", "rk_resnet", "revnet", "ode_resnet", "stem_only", "one_block",
    ]  # fmt: skip
    assert plan.baseline == "resnet"
    assert plan.seeds == (0, 1, 2)
    for arm in plan.arms:
        if not arm.control:
            assert arm.sizes["parameters"] == pytest.approx(40_000, rel=0.01)
        for key in ("data", "optimizer", "trainer"):
            assert arm.config[key] == plan.arms[0].config[key]
    table = plan.sizes_table()
    assert max(map(len, table.splitlines())) <= 120
    assert "parameters *" in table
    assert table.count(") *") == 5
    controls = {arm.name: arm for arm in plan.arms if arm.control}
    assert controls["one_block"].sizes["widths"] == plan.arms[0].sizes["widths"]
    assert controls["stem_only"].sizes["steps"] == "none"


def test_a_plain_network_costs_what_the_resnet_does() -> None:
    resnet, plain = make_plan(compose("compare", ["experiment=demo", "networks=[resnet,plain]", "controls=[]"])).arms
    same = ("parameters", "flow_parameters", "macs", "widths", "steps")
    assert {key: plain.sizes[key] for key in same} == {key: resnet.sizes[key] for key in same}


def test_the_baselines_own_cost_is_a_target_and_all_arms_share_one_recipe() -> None:
    words = ["networks=[lm_resnet,resnet]", "controls=[stem_only]", "arms.resnet.depth=8", "arms.lm_resnet.depth=8"]
    asked = ["budget.kind=macs", "budget.target=baseline", "budget.by=depth", *words]
    plan = make_plan(compose("compare", ["experiment=demo", *asked]))
    baseline, other, control = plan.arms
    assert (baseline.name, baseline.knobs) == ("resnet", {})
    assert other.sizes["macs"] == pytest.approx(baseline.sizes["macs"], rel=0.01)
    assert other.knobs == {"depth": 8, "width": 1.0}
    assert (control.matched, control.knobs) == (False, {})
    told = plan.document("", {}, "")
    assert told["budget"] == {"kind": "macs", "target": baseline.sizes["macs"], "by": "depth", "tolerance": 0.01}
    assert (
        told["recipe_hash"]
        == make_plan(
            compose("compare", ["experiment=demo", "networks=[mlp]", "baseline=mlp", "budget=null", "controls=[]"])
        ).recipe_hash()
    )


def test_a_measured_match_is_taken_from_the_comparison_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times do not repeat, and a comparison must go on with the networks that it has."""
    words = ["networks=[resnet,lm_resnet]", "controls=[]", "arms.resnet.depth=8", "arms.lm_resnet.depth=8"]
    config = compose("compare", ["experiment=demo", "budget={kind: step_time, target: baseline}", *words])
    monkeypatch.setattr(
        "lightning_modules.comparing.match_budget.step_times", lambda *_, **__: {"baseline": {"median_s": 0.5}}
    )
    monkeypatch.setattr("lightning_modules.comparing.match_budget.match_budget", lambda *_, **__: {"width": 0.5})
    plan = make_plan(config)
    assert [dict(arm.knobs) for arm in plan.arms] == [{}, {"width": 0.5}]
    monkeypatch.undo()
    again = make_plan(config, plan.document("", {}, ""))
    assert [arm.entry() for arm in again.arms] == [arm.entry() for arm in plan.arms]
    assert again.budget == plan.budget


def test_a_network_named_twice_is_one_arm_and_controls_follow_the_baseline() -> None:
    config = compose(
        "compare",
        ["experiment=demo", "networks=[resnet,forward_euler]", "controls=[one_block]", "arms.resnet.depth=8"],
    )
    plan = make_plan(config)
    assert [arm.name for arm in plan.arms] == ["resnet", "one_block"]
    assert plan.arms[0].sizes["widths"] == plan.arms[1].sizes["widths"]


def test_controls_of_a_sized_baseline_have_its_stem_widths_and_field() -> None:
    chosen = [
        "networks=[resnet50]",
        "baseline=resnet50",
        "controls=[stem_only]",
        "budget=null",
        "arms.resnet50.width=0.125",
    ]
    baseline, control = make_plan(compose("compare", ["experiment=demo", *chosen])).arms
    assert baseline.sizes["widths"] == control.sizes["widths"] == [32, 64, 128, 256]
    assert "7x7" in control.sizes["stem"]
    assert control.sizes["field"] == "bottleneck"


def test_table_1_of_the_ode_net_paper_keeps_its_sizes_and_its_controls_are_its_resnet_without_blocks() -> None:
    plan = make_plan(compose("compare", ["experiment=mnist_table1", "data=digits", "data.augment=false"]))
    arms = {arm.name: arm for arm in plan.arms}
    assert list(arms) == ["resnet_chen", "one_layer_mlp", "rknet", "odenet", "stem_only", "one_block"]
    assert not any(arm.matched for arm in plan.arms)
    assert {arms[name].sizes["parameters"] for name in ("odenet", "rknet")} == {208_266}
    baseline = arms["resnet_chen"].sizes
    assert baseline["parameters"] == 576_778
    for control, blocks in (("stem_only", 0), ("one_block", 1)):
        sizes = arms[control].sizes
        assert all(sizes[key] == baseline[key] for key in ("stem", "widths", "norm", "field"))
        assert baseline["parameters"] - sizes["parameters"] == (6 - blocks) * 443_904 // 6
    assert plan.recipe["optimizer"]["weight_decay"] == 0
    assert plan.recipe["trainer"]["max_epochs"] == 160
    table = plan.sizes_table()
    assert "norm groups" in table
    assert table.count("32x2") == len(plan.arms) - 1  # the dense network has no norm


def test_plan_tells_every_arm_that_cannot_be_built() -> None:
    config = compose(
        "compare",
        ["experiment=demo", "networks=[resnet,revnet]", "controls=[]", "arms.resnet.depth=21", "arms.revnet.depth=20"],
    )
    with pytest.raises(SchemenetError) as caught:
        make_plan(config)
    assert "resnet: architecture 'resnet': depth" in str(caught.value)
    assert "revnet: architecture 'revnet': depth" in str(caught.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("with spaces") / "a comparison"
    with runs_in_this_process():
        assert main([*SMALL, f"folder={folder}"]) == 0
    return folder


def test_comparison_trains_reports_and_skips_what_is_done(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = read_comparison(finished)
    assert {run.status for run in comparison.runs} == {"done"}
    assert len(comparison.runs) == 3 * 2
    with (finished / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    text = (finished / "report.md").read_text()
    for needed in ("resnet-verlet", "forward_euler", "95%", "one_block", "schemenet compare"):
        assert needed in text
    for picture in ("error_against_costs.png", "learning_curves.png"):
        assert (finished / picture).stat().st_size > 10_000
    times = {path: path.stat().st_mtime_ns for path in finished.glob("*/seed*/result.json")}
    assert main([*SMALL, f"folder={finished}"]) == 0
    assert "6 of 6 runs are done already" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in finished.glob("*/seed*/result.json")}


def test_costs_are_counted_once_and_are_those_that_a_run_by_itself_counts(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished / "resnet-verlet" / "seed0"
    config = read_job(folder / JOB).config
    known = measured(folder)["ledger"]
    assert train(config, tmp_path / "alone")["ledger"] == known
    monkeypatch.setattr(run, "run_costs", lambda *_: pytest.fail("costs are counted again"))
    assert train(config, tmp_path / "told", ledger=known)["ledger"] == known


@pytest.mark.parametrize(
    ("words", "is_known"),
    [([], True), (["trainer.precision=bf16-mixed"], False), (["arms.resnet.grid={name: adaptive, rtol: 0.01}"], False)],
)
def test_costs_that_training_may_change_are_left_to_the_runs(words: list[str], is_known: bool) -> None:
    chosen = ["networks=[resnet]", "controls=[]", "budget=null", "arms.resnet={depth: 8, scheme: dopri5, norm: group}"]
    (arm,) = make_plan(compose("compare", ["experiment=demo", *chosen, *words])).arms
    assert (arm.ledger is not None) == is_known


def test_runs_are_paired(finished: Path) -> None:
    """The first loss differs between seeds and is not touched by what runs beside it."""
    configs = [json.loads((finished / "resnet" / f"seed{seed}" / "config.json").read_text()) for seed in (0, 1)]
    assert configs[0] == {**configs[1], "seed": 0}


def test_another_recipe_is_not_mixed_in(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, f"folder={finished}", "optimizer.lr=0.01"]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_an_option_that_changes_no_size_is_another_recipe(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, f"folder={finished}", "arms.resnet.statistics=shared"]) == 2
    assert "different: resnet" in capsys.readouterr().err


def test_runs_that_fail_or_cannot_start_are_survived_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "comparison"
    (folder / "one_block").mkdir(parents=True)
    (folder / "one_block" / "seed0").touch()
    broken = folder / "lm_resnet" / "seed0"
    broken.mkdir(parents=True)
    (broken / "metrics.csv").mkdir()  # its csv cannot be written
    pair = ["networks=[forward_euler,linear_multistep]", "arms.lm_resnet.depth=8"]
    status = main(but(SMALL[:-1], *pair, "seeds=1", f"folder={folder}"))  # in processes, as users run them
    told = capsys.readouterr().out
    assert status == 1
    assert "lm_resnet seed 0: FAILED" in told
    assert "one_block seed 0: FAILED to start" in told
    runs = {run.arm: run for run in read_comparison(folder).runs}
    assert runs["resnet"].status == "done"
    assert runs["lm_resnet"].status == "failed"
    assert "metrics.csv" in runs["lm_resnet"].reason
    assert "lm_resnet" in (folder / "report.md").read_text()


def test_a_scheme_named_with_an_architecture_has_its_defaults() -> None:
    config = compose("compare", ["networks=[backward_euler:resnet]", "budget=null", "controls=[]"])
    arm = next(arm for arm in make_plan(config).arms if arm.name == "resnet-backward_euler")
    assert arm.config["scheme"] == {"name": "backward_euler"}
    assert arm.config.complete["scheme"]["substeps"] == 4
