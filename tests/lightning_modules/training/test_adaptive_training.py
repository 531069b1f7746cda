"""Networks trained on adaptive grids: what their solves cost is logged, and one that cannot go on ends the run."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from architectures import create_model
from architectures.supervised.insertion import insert
from lightning_modules.callbacks.inversion_error import InversionErrorLogger
from lightning_modules.callbacks.run_status import Progress
from lightning_modules.callbacks.solver_cost import SOLVER_COSTS, SolverCostLogger, SolverCostMetric
from lightning_modules.cli import main
from lightning_modules.comparing.records import read_run
from lightning_modules.config.compose import compose
from lightning_modules.evaluation.evaluate import describe, evaluate
from lightning_modules.launching.job import Job, run_file
from lightning_modules.launching.multi_process import train
from lightning_modules.metrics import MEASURES
from lightning_modules.storage.run_files import FAILURE
from schemes.errors import SchemenetError
from tests.lightning_modules.training.test_resume import assert_same_run, train_killed
from tests.support.overrides import but

ADAPTIVE = ["architecture=mlp", "architecture.width=0.25", "scheme=bosh3", "grid=adaptive", "gradient=checkpoint"]
DIGITS = ["data=digits", "data.batch_size=16", "data.limit_train=80", "data.limit_test=32"]  # 5 and 2 batches an epoch
OFTEN = ["trainer.log_every_n_steps=1", "trainer.checkpoint_every_n_steps=2", "trainer.max_epochs=2"]
WORDS = ["logger=csv", "trainer.threads=1", *ADAPTIVE, *DIGITS, *OFTEN]
GROWING = [
    "optimizer.lr=1e-6",
    "optimizer.schedule=constant",
    "grid.max_steps=10000",
    "grid.rtol=1e-5",
    "grid.atol=1e-5",
]


@pytest.fixture(scope="module", autouse=True)
def _weights_grow() -> Iterator[None]:
    """Under GROWING the weights grow by the same factor at each step, and with them the number of the solver's steps.

    How a training goes depends on the processor's last digits; this does not.
    """
    step = torch.optim.SGD.step

    def grow(self: torch.optim.SGD, closure: Any = None) -> Any:
        loss = step(self, closure)
        for parameter in (p for group in self.param_groups if group["lr"] == 1e-6 for p in group["params"]):
            parameter.data.mul_(1.1)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", grow)
        yield


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten batches that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    train(compose("train", [*WORDS, *GROWING]), folder)
    return folder


# What is logged


def test_every_batch_and_every_epoch_tell_their_work(whole: Path) -> None:
    for epoch in (0, 1):
        logged = [row for row in rows(whole) if row["epoch"] == str(epoch)]
        for name in SOLVER_COSTS:
            batches = [float(row[name]) for row in logged if row[name]]
            (mean,) = (float(row[f"{name}/epoch"]) for row in logged if row[f"{name}/epoch"])
            assert len(batches) == 5
            assert mean == pytest.approx(sum(batches) / 5), name
        # Three evaluations an attempt: bosh3 begins with the slope that the step before ended with, and a first guess.
        for row in filter(lambda row: row["nfe/forward"], logged):
            work = {name: float(row[name]) for name in SOLVER_COSTS}
            assert work["nfe/forward"] == 2 + 3 * (work["steps/accepted"] + work["steps/rejected"])
            assert 0 < work["nfe/backward"] <= work["nfe/forward"]
            assert work["products/backward"] >= 3 * work["steps/accepted"]
            assert work["products/forward"] == 0
        (tested,) = (float(row["test/nfe"]) for row in logged if row["test/nfe"])
        assert tested >= 8
    assert len({row["nfe/forward"] for row in rows(whole) if row["nfe/forward"]}) > 2


def test_where_nothing_varies_nothing_is_logged(tmp_path: Path) -> None:
    train(compose("train", [*WORDS, "grid=uniform", "grid.time=1.0", "trainer.max_epochs=1"]), tmp_path)
    assert not any(key.startswith(("nfe", "steps", "products", "test/nfe")) for key in rows(tmp_path)[0])


def test_an_implicit_scheme_tells_its_evaluations(tmp_path: Path) -> None:
    words = ["scheme=backward_euler", "grid=uniform", "trainer.max_epochs=1", "gradient=backprop"]
    train(compose("train", [*WORDS, *words]), tmp_path)
    assert float(rows(tmp_path)[0]["nfe/forward"]) > 4  # one a step would solve nothing


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    metric = SolverCostMetric()
    for batch in range(rank + 1):
        metric.update([10 * (rank + 1) + batch] + [rank] * (len(SOLVER_COSTS) - 1))
    torch.save(metric.by_name(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_mean_is_over_the_batches_of_all_processes(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(worker, (str(tmp_path),), nprocs=2, start_method="fork")
    for rank in (0, 1):
        told = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert told["nfe/forward/epoch"] == pytest.approx((10 + 20 + 21) / 3)
        assert told["nfe/forward/most"] == 21
        assert told["steps/rejected/epoch"] == pytest.approx(2 / 3)


def test_a_killed_run_has_the_same_means_at_its_end(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    config = compose("train", [*WORDS, *GROWING])
    train_killed(monkeypatch, config, tmp_path, "on_train_batch_end", 8)
    train(config, tmp_path)
    assert_same_run(whole, tmp_path)


# What ends a run


def attempts(row: dict[str, str]) -> float:
    return float(row["steps/accepted"]) + float(row["steps/rejected"])


def test_a_step_limit_ends_a_run_that_goes_on_with_a_higher_one(whole: Path, tmp_path: Path, capsys: Any) -> None:
    allowed = attempts(rows(whole)[0]) + 1
    recipe = [*WORDS, *GROWING, f"folder={tmp_path}"]
    words = ["train", *but(recipe, f"grid.max_steps={allowed:.0f}")]
    assert main(words) == 1
    told, result = capsys.readouterr().err, result_of(tmp_path)
    assert "Traceback" not in told
    assert f"step limit max_steps={allowed:.0f}" in told
    assert "a higher limit" in told
    assert (result["status"], result["test_error"]) == ("failed", None)
    assert result["reason"] in told
    assert result["reason"].startswith("in epoch ")
    logged, unlimited = ([row for row in rows(folder) if row["train/loss"]] for folder in (tmp_path, whole))
    assert logged
    assert [row["nfe/forward"] for row in logged] == [row["nfe/forward"] for row in unlimited][: len(logged)]

    assert main(["train", *recipe]) == 0
    assert f"resumes from epoch 0, step {len(logged)}" in capsys.readouterr().out
    assert_same_run(whole, tmp_path)


def test_a_time_limit_ends_a_run(tmp_path: Path, capsys: Any) -> None:
    assert main(["train", *WORDS, f"folder={tmp_path}", "grid.seconds=1e-9"]) == 1
    assert "the time limit seconds=1e-09 is reached" in capsys.readouterr().err
    assert result_of(tmp_path)["status"] == "failed"


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        (["grid=adaptive"], "after 2 training steps: f returned "),
        (["grid=uniform", "grid.time=1.0"], "after 3 training steps: the training loss is NaN or infinite"),
    ],
    ids=["adaptive", "uniform"],
)
def test_weights_that_are_no_numbers_end_a_run_as_diverged(
    grid: list[str], reason: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """The solver says so, or, where it looks at no number, the loss."""

    def spoil(self: Any, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            next(module.network.flows[0].parameters()).data.fill_(torch.nan)

    monkeypatch.setattr(Progress, "on_train_batch_end", spoil)
    words = ["train", *but(WORDS, *grid), f"folder={tmp_path}"]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "NaN or infinite" in message
    assert reason in message
    result = result_of(tmp_path)
    assert result["status"] == "diverged"
    assert result["reason"] in message
    assert {"parameters", "flow_parameters"} < result["ledger"].keys()
    assert any(row["train/loss"] for row in rows(tmp_path))
    assert main(words) == 0
    assert "done already" in capsys.readouterr().out


def test_a_comparison_tells_of_such_an_arm(tmp_path: Path) -> None:
    config = compose("train", [*WORDS, "grid.max_steps=1", "grid.rtol=1e-6"])
    job = Job(tmp_path / "mlp" / "seed0", config, "mlp", "group")
    assert run_file([str(job.write())]) == 1
    assert "step limit max_steps=1" in (job.folder / FAILURE).read_text()
    assert not job.done  # tried again by the same command
    read = read_run(job.folder, "mlp", 0, MEASURES["error"], {"arm": "mlp", "seed": 0})
    assert read.status == "failed"
    assert "step limit" in read.reason


# Options of the trainer, each once


@pytest.mark.parametrize(
    "words",
    [
        ["gradient=adjoint"],
        ["trainer.compile=aot_eager"],
        ["gradient=backprop", "trainer.precision=bf16-mixed"],
        ["trainer.precision=bf16-mixed", "trainer.ema=0.9"],
        ["architecture=ode_resnet", "architecture.norm=group", "trainer.channels_last=true"],
    ],
    ids=" ".join,
)
def test_an_option_trains(words: list[str], tmp_path: Path) -> None:
    limits = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_test_batches=1"]
    result = train(compose("train", [*WORDS, *limits, *words]), tmp_path)
    assert result["status"] == "done"
    assert result["test_error"] is not None
    assert float(rows(tmp_path)[0]["nfe/backward"]) >= 0


# Evaluated at other tolerances


def test_a_looser_tolerance_takes_fewer_evaluations(whole: Path, capsys: Any) -> None:
    assert main(["eval", str(whole), "grid.rtol=0.1", "grid.atol=0.1"]) == 0
    out = capsys.readouterr().out
    assert "result.json says the same" in out
    assert "steps by rtol 0.1, atol 0.1" in out
    tight = evaluate(whole, ["grid.rtol=1e-6", "grid.atol=1e-6"])
    loose = evaluate(whole, ["grid.rtol=0.1", "grid.atol=0.1"])
    assert f"{loose['changed']['nfe']:.4g} evaluations of f a batch" in out
    assert loose["changed"]["nfe"] < loose["trained"]["nfe"] < tight["changed"]["nfe"]
    assert tight["changed"]["rtol"] == 1e-6
    assert evaluate(whole, ["scheme=dopri5"])["changed"]["scheme"]["name"] == "dopri5"
    assert Path(tight["file"]).is_file()
    assert Path(tight["file"]) != Path(loose["file"])


def test_a_tolerance_of_its_own_in_evaluation_gives_way_to_what_is_asked(tmp_path: Path) -> None:
    train(compose("train", [*WORDS, "grid.eval_rtol=1e-6", "trainer.max_epochs=1"]), tmp_path)
    assert evaluate(tmp_path)["trained"]["rtol"] == 1e-6
    assert evaluate(tmp_path, ["grid.rtol=0.1"])["changed"]["rtol"] == 0.1
    assert evaluate(tmp_path, ["grid.rtol=0.1", "grid.eval_rtol=0.01"])["changed"]["rtol"] == 0.01


def test_from_an_adaptive_grid_to_a_uniform_one_and_back(whole: Path, tmp_path: Path) -> None:
    fine = evaluate(whole, ["grid=uniform", "grid.steps=400", "grid.time=1.0", "scheme=rk4"])
    near = evaluate(whole, ["grid.rtol=1e-7", "grid.atol=1e-7", "scheme=dopri5"])
    assert fine["changed"]["test_loss"] == pytest.approx(near["changed"]["test_loss"], rel=1e-4)
    assert fine["changed"]["steps"] == [400]
    train(compose("train", [*WORDS, "grid=uniform", "sharing=shared", "trainer.max_epochs=1"]), tmp_path)
    back = evaluate(tmp_path, ["grid=adaptive"])
    assert (back["trained"]["time"], back["changed"]["time"]) == ([4], [1.0])
    assert "grid.time=4 keeps it" in describe(back)


# Weights from another run


def network(**options: Any) -> nn.Module:
    return create_model("mlp", hidden=4, scheme="dopri5", sharing="shared", **options)


def test_a_field_is_copied_between_grids() -> None:
    uniform, adaptive = network(grid="uniform", steps=2), network(grid="adaptive")
    for trained, grown in ((uniform, adaptive), (adaptive, network(grid="uniform", steps=3))):
        insert(trained, grown)
        for one, other in zip(trained.parameters(), grown.parameters(), strict=True):
            assert torch.equal(one, other)


def test_steps_with_weights_of_their_own_do_not_make_one_field() -> None:
    steps = create_model("mlp", hidden=4, steps=2, sharing="per_step")
    with pytest.raises(SchemenetError, match="one field serves at all times"):
        insert(steps, network(grid="adaptive"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["grid.rtol=abc"], "rtol expected to be a number, got 'abc'"),
        (["grid.rtol=-1"], "rtol expected to be at least 0, got -1"),
        (["grid.rtols=1"], "did you mean 'rtol'"),
        (["grid.controller=PI2"], "expected one of 'I', 'PI', 'PID', got 'PI2'"),
        (["grid.max_steps=0"], "max_steps expected to be at least 1"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else None,
)
def test_options_of_the_grid_are_checked(words: list[str], told: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["train", *WORDS, f"folder={tmp_path}", *words]) == 2
    assert told in capsys.readouterr().err


def test_callbacks_keep_the_names_under_which_checkpoints_hold_their_state() -> None:
    assert (SolverCostLogger().state_key, InversionErrorLogger().state_key) == ("LogWork", "LogInversion")
