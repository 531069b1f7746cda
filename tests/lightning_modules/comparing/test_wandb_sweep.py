"""A grid as a W&B sweep, with a server on this machine: what W&B's own agent makes of it, `schemenet train` takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_modules.comparing.wandb_sweep import SWEEP, begin, document
from lightning_modules.config.compose import compose
from lightning_modules.config.sweep_grid import Grid, compose_grid
from lightning_modules.training.run_folder import run_folder
from tests.support.wandb_stub import ENTITY, KEY, Stub

WORDS = [
    "architecture.widths=[8,16,24],[4,8,16]", "optimizer.lr=0.1,1e-05", "seed=range(2)",
    "sharing=null,shared", "data.augment=true,false", "data=digits", "trainer.max_epochs=3", "launcher.jobs=1",
    "folder=elsewhere",
]  # fmt: skip


class SweepServer(Stub):
    """Keeps one sweep, and gives points to an agent, one at a time."""

    def __init__(self, *points: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.points = "", list(points)

    def answer(self, operation: str, told: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "lab", "entity": {"id": "e", "name": ENTITY}}
        match operation:
            case "UpsertSweep":
                self.config = told["config"]
                return {"upsertSweep": {"sweep": {"name": "s1", "project": project}, "configValidationWarnings": []}}
            case "SweepWithRuns":
                return {"project": {"sweep": {"name": "s1", "config": self.config, "runs": {"edges": []}}}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "a1"}}}
            case "Heartbeat":
                given = {"type": "exit"}
                if json.loads(told["runState"]):
                    given = {}
                elif self.points:
                    arguments = {key: {"value": value} for key, value in self.points.pop(0).items()}
                    given = {"type": "run", "run_id": f"r{len(self.points)}", "program": None, "args": arguments}
                return {"agentHeartbeat": {"agent": {"id": "a1"}, "commands": json.dumps([given] if given else [])}}
        return super().answer(operation, told)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepServer]:
    stub = SweepServer({"scheme": "linear_multistep", "architecture.depth": 8, "sharing": "null"})
    monkeypatch.setenv("WANDB_BASE_URL", stub.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE")
    yield stub
    stub.close()


def grid(*words: str) -> Grid:
    return compose_grid(words)[0]


def test_every_point_that_an_agent_is_given_is_the_run_that_the_grid_means(tmp_path: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    meant = grid(*WORDS)
    sweep = yaml.safe_load(yaml.safe_dump(document(meant, tmp_path, "lab", "test/error")))
    assert sweep["parameters"]["optimizer.lr"]["values"] == [0.1, 1e-05]
    assert sweep["parameters"]["sharing"]["values"] == ["null", "shared"]
    before, after = sweep["command"][3:-1], sweep["command"][-1]
    assert (sweep["command"][:3], after) == (["${env}", "schemenet", "train"], "${args_no_hyphens}")
    folders = set()
    for index in range(2):
        point = {key: told["values"][index] for key, told in sweep["parameters"].items()}
        made = create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
        config = compose("train", [*before, *made["args_no_hyphens"]])
        words = [f"{key}={values[index]}" for key, values in meant.axes.items()]
        assert config.recipe_hash == compose("train", ["data=digits", "trainer.max_epochs=3", *words]).recipe_hash
        assert config["seed"] == index
        folders.add(run_folder(config))
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {tmp_path}


def test_without_a_server_the_file_is_written_and_the_way_on_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begin(grid("scheme=rk2,rk4"), tmp_path / "ablation", "test/error", project="lab") == 1
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "needs W&B's server, but W&B is offline by WANDB_MODE" in told
    assert f"`wandb sweep --project lab {tmp_path / 'ablation' / SWEEP}` begins it" in told
    written = yaml.safe_load((tmp_path / "ablation" / SWEEP).read_text(encoding="utf-8"))
    assert written["parameters"] == {"scheme": {"values": ["rk2", "rk4"]}}


@pytest.mark.slow
def test_wandbs_own_agent_runs_train_with_words_that_it_takes(tmp_path: Path, server: SweepServer) -> None:
    asked = (
        "from pathlib import Path; from lightning_modules.config.sweep_grid import compose_grid;"
        "from lightning_modules.comparing.wandb_sweep import begin;"
        "grid = compose_grid(['scheme=rk4,linear_multistep', 'data=digits'])[0];"
        "begin(grid, Path('ablation'), 'test/error', project='lab')"
    )
    root = str(Path(__file__).parents[3])
    words, program = tmp_path / "words", tmp_path / "schemenet"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {words}\n', encoding="utf-8")
    program.chmod(0o755)
    known = os.environ | {"PYTHONPATH": root, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=known, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"2 runs; on every machine that is to train, as often as it has room: wandb agent {ENTITY}/lab/s1" in run(
        "-c", asked
    )
    run("-m", "wandb", "agent", f"{ENTITY}/lab/s1")
    command, *given = words.read_text(encoding="utf-8").splitlines()
    assert command == "train"
    config = compose("train", given)
    assert (config["scheme"]["name"], config["architecture"]["depth"]) == ("linear_multistep", 8)
    assert run_folder(config).parent == Path("ablation")
