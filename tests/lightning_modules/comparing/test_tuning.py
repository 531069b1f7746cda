"""Tuning is equal for all arms, on data that is neither trained nor compared on, and goes on after a kill."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures.costs.budget import Budget
from lightning_modules.cli import main
from lightning_modules.comparing import run as runner
from lightning_modules.comparing import tuning
from lightning_modules.comparing.match_budget import Matching
from lightning_modules.comparing.plan import Plan, make_plan
from lightning_modules.config.compose import compose
from lightning_modules.config.sections import section
from lightning_modules.data.datamodule import validation_split
from lightning_modules.data.loader import Part
from lightning_modules.data.supervised.toy_points import Moons, Points
from lightning_modules.launching.job import Job
from lightning_modules.launching.multi_process import train
from schemes import SchemenetError
from tests.support.messages import assert_lines
from tests.support.overrides import but

SMALL = [
    "compare", "data=moons", "logger=csv", "networks=[mlp,heun:mlp]", "baseline=mlp", "controls=[]", "budget=null",
    "trainer.max_epochs=2", "trainer.accelerator=cpu", "data.batch_size=50", "data.train_size=100", "data.test_size=40",
    "seeds=1", "tune.lr=[0.5,0.001]", "tune.seeds=1", "tune.validation=0.2", "tune.max_epochs=1",
]  # fmt: skip


def plan_of(*overrides: str) -> Plan:
    return make_plan(compose("compare", [*SMALL[1:], *overrides]))


class TestHeldOut:
    def test_split_is_drawn_once_whatever_is_trained(self) -> None:
        one, other = (Moons(validation=0.25, seed=seed, batch_size=size) for seed, size in ((0, 10), (7, 30)))
        for data in (one, other):
            data.setup()
        assert torch.equal(one.validation_set.inputs, other.validation_set.inputs)
        assert [len(part) for part in (one.train_set, one.validation_set)] == [750, 250]
        rows = torch.cat((one.train_set.inputs, one.validation_set.inputs))
        assert torch.equal(rows.unique(dim=0), Moons().load(train=True).inputs.unique(dim=0))
        assert 80 < int(one.validation_set.labels.sum()) < 170

    def test_test_set_is_not_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        load = Points.load
        monkeypatch.setattr(Points, "load", lambda self, train: load(self, train) if train else pytest.fail("test set"))
        data = Moons(validation=0.1, limit_train=20)
        data.setup()
        assert data.test_set is None
        assert [len(part) for part in (data.train_set, data.validation_set)] == [18, 2]

    def test_part_of_inputs_that_are_not_in_memory(self) -> None:
        inputs = torch.arange(10) * 10
        part = Part(inputs, torch.tensor([3, 5, 8]))
        assert len(part) == 3
        assert part[torch.tensor([2, 0])].tolist() == [80, 30]

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
    def test_shares_that_leave_nothing_are_refused(self, share: float) -> None:
        with pytest.raises(SchemenetError, match=r"data\.validation: expected a share"):
            Moons(validation=share)
        with pytest.raises(SchemenetError, match="nothing to hold out"):
            validation_split(1, 0.5)


class TestChoice:
    def test_lowest_mean_error_wins_a_diverged_run_counts_as_the_worst_and_ties_go_to_the_smaller(self) -> None:
        tried = {
            "plain": {0.01: [0.3, 0.2], 0.1: [0.1, 0.2], 1.0: [0.2, 0.2]},
            "diverging": {0.01: [0.3, 0.2], 0.1: [0.1, None], 1.0: [None, None]},
            "tied": {0.01: [0.4, 0.4], 0.1: [0.1, 0.1], 1.0: [0.1, 0.1]},
            "hopeless": {0.01: [None, None], 0.1: [None, None], 1.0: [None, None]},
        }
        chosen = tuning.choose(tried, worst=1.0)
        assert chosen == {"plain": 0.1, "diverging": 0.01, "tied": 0.1, "hopeless": 0.01}
        assert_lines(
            tuning.notes(tried, chosen, worst=1.0),
            ("diverging", "0.01", "smallest of the grid", "widen the grid"),
            ("tied", "lr=0.1", "1", "the smallest"),
            ("hopeless", "every tuning run diverged", "lr=0.01"),
        )

    def test_a_diverged_run_counts_as_such_whatever_its_weights_classify_by_chance(self, tmp_path: Path) -> None:
        plan = plan_of("tune.lr=[0.5]")
        for job, status in zip(tuning.jobs(plan, plan.tuning, tmp_path), ("done", "diverged"), strict=True):
            result = {"seed": 1000, "recipe": job.config.recipe_hash, "status": status, "validation_error": 0.48}
            job.folder.mkdir(parents=True)
            (job.folder / "result.json").write_text(json.dumps(result))
        assert tuning.tried(plan, plan.tuning, tmp_path) == {"mlp": {0.5: [0.48]}, "mlp-heun": {0.5: [None]}}

    def test_seeds_are_not_those_of_the_comparison(self) -> None:
        asked = section("tune", {"lr": [0.1], "seeds": 3})
        assert asked.disjoint_seeds((0, 1, 1001)) == (1000, 1002, 1003)
        with pytest.raises(SchemenetError, match=r"tune\.seeds: 1 would be tuned on and compared"):
            section("tune", {"lr": [0.1], "seeds": [1, 5]}).disjoint_seeds((0, 1))


def test_every_arm_gets_the_same_grid_and_no_test_set(tmp_path: Path) -> None:
    plan = plan_of()
    jobs = tuning.jobs(plan, plan.tuning, tmp_path / "of mine")
    settings = Counter((job.config["optimizer"]["lr"], job.config["seed"]) for job in jobs)
    assert settings == {(0.001, 1000): 2, (0.5, 1000): 2}
    assert jobs[0].folder == tmp_path / "of mine" / "mlp" / "tuning" / "lr0.001-seed1000"
    for job in jobs:
        assert job.config["data"]["validation"] == 0.2
        assert job.config["trainer"]["max_epochs"] == job.config["trainer"]["check_test_every_n_epoch"] == 1
        assert job.group == "of mine-tuning"
    for arm in plan.arms:
        assert arm.config["trainer"]["check_test_every_n_epoch"] == 2
        assert arm.config["data"]["validation"] is None


def test_a_chosen_rate_is_of_the_arm_and_not_of_the_shared_recipe() -> None:
    plan = plan_of()
    tuned = tuning.tuned(plan, {"mlp": 0.5})
    assert [arm.config["optimizer"]["lr"] for arm in tuned.arms] == [0.5]
    before, after = plan.arms[0].entry(), tuned.arms[0].entry()
    assert before["recipe"] == before["untuned"] == after["untuned"] != after["recipe"]

    def hash_with(group: str, **changed: float) -> str:
        return replace(plan, recipe={**plan.recipe, group: {**plan.recipe[group], **changed}}).recipe_hash()

    shared = plan.document("", {}, "")["recipe"]
    assert "lr" not in shared["optimizer"]
    assert "seed" not in shared
    assert hash_with("optimizer", lr=0.3) == plan.recipe_hash() != hash_with("data", noise=0.3)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What was trained, in this process, and by no run with a tuning seed on a test set; no report."""
    done: list[Job] = []
    load = Points.load

    def watched_load(data: Points, train: bool) -> Any:
        assert train or data.seed < 1000, "a tuning run has read the test set"
        return load(data, train)

    def launch(jobs: Sequence[Job], launcher: object) -> None:
        for job in jobs:
            if not job.done:
                train(job.config, job.folder, arm=job.arm, group=job.group)
                done.append(job)

    monkeypatch.setattr(Points, "load", watched_load)
    monkeypatch.setattr(runner, "launch", launch)
    monkeypatch.setattr(runner.report, "write", lambda folder: folder)
    return done


def test_a_tuned_comparison_picks_a_rate_for_each_arm_and_goes_on_after_a_kill(
    trained: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tuned"
    command = [*SMALL, f"folder={folder}"]
    choose = tuning.choose
    monkeypatch.setattr(tuning, "choose", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(command) == 130
    assert len(trained) == 4
    monkeypatch.setattr(tuning, "choose", choose)
    assert main(command) == 0
    assert [job.name for job in trained[4:]] == ["mlp seed 0", "mlp-heun seed 0"]
    assert "0.5, is the largest of the grid; widen the grid" in capsys.readouterr().out

    told = json.loads((folder / "comparison.json").read_text())
    assert told["tuning"]["chosen"] == {"mlp": 0.5, "mlp-heun": 0.5}
    assert told["tuning"]["seeds"] == [1000]
    assert list(told["tuning"]["errors"]["mlp"]) == ["0.001", "0.5"]
    for arm in told["arms"]:
        result = json.loads((folder / arm["name"] / "seed0" / "result.json").read_text())
        assert result["recipe"] == arm["recipe"]
        assert (result["validation_error"], result["test_error"] is None) == (None, False)
        assert json.loads((folder / arm["name"] / "seed0" / "config.json").read_text())["optimizer"]["lr"] == 0.5
        assert len(column(folder / arm["name"] / "seed0", "test/error")) == 1
        assert len(column(folder / arm["name"] / "tuning" / "lr0.5-seed1000", "validation/error")) == 1
        assert not column(folder / arm["name"] / "tuning" / "lr0.5-seed1000", "test/error")

    assert main(command) == 0
    assert len(trained) == 6
    assert main(but(command, "tune.lr=[0.5,0.1]")) == 2
    assert "different: tune" in capsys.readouterr().err


def column(run: Path, name: str) -> list[str]:
    """What a run has logged under a name."""
    with (run / "metrics.csv").open(newline="") as file:
        return [row[name] for row in csv.DictReader(file) if row.get(name)]


def test_an_arm_whose_tuning_failed_is_told_and_waits(
    trained: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = runner.launch
    monkeypatch.setattr(
        runner, "launch", lambda jobs, _: launch([o for o in jobs if "heun" not in o.arm or "0.5" not in o.arm], _)
    )
    assert main(but(SMALL, "trainer.max_epochs=1", f"folder={tmp_path / 'part'}")) == 1
    assert "mlp-heun: not all of its tuning runs are done" in capsys.readouterr().out
    assert [job.name for job in trained][-1] == "mlp seed 0"


def test_a_baseline_whose_tuning_failed_costs_no_report(
    trained: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, written = runner.launch, []
    monkeypatch.setattr(runner, "launch", lambda jobs, _: launch([o for o in jobs if "heun" in o.arm], _))
    monkeypatch.setattr(runner.report, "write", lambda folder: written.append(folder) or folder)
    monkeypatch.setattr(Matching, "knobs", lambda *_: {})  # which would measure times
    budget = ["budget.kind=step_time", "budget.target=baseline"]
    held = Budget("step_time", 0.1, "width", 0.1)
    monkeypatch.setattr(Matching, "budget", property(lambda _: held, lambda *_: None), raising=False)
    command = [word for word in SMALL if not word.startswith("budget")]
    assert main(but(command, *budget, "trainer.max_epochs=1", f"folder={tmp_path / 'part'}")) == 1
    assert written == [tmp_path / "part"]
