"""What W&B is told, and that a run waits for it and loses by it nothing: against a server on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image

from lightning_modules.comparing.report.wandb import log_report
from lightning_modules.config.compose import compose
from lightning_modules.launching.multi_process import train
from lightning_modules.loggers import wandb as wandb_runs
from lightning_modules.loggers.base import About
from lightning_modules.loggers.opening import check, opened
from lightning_modules.loggers.wandb import IDENTITY, begin, finish, settled, settled_mode
from schemes.errors import SchemenetError
from tests.support.messages import assert_lines
from tests.support.run_folders import logged
from tests.support.wandb_stub import KEY, Stub, serving

WANDB = {"name": "wandb", "project": None, "entity": None, "mode": None}
QUICK = ["architecture.depth=14", "architecture.width=0.25", "trainer.max_epochs=2", "trainer.limit_train_batches=3",
         "trainer.limit_test_batches=2", "trainer.log_every_n_steps=1", "logger=wandb"]  # fmt: skip
ABOUT = About(key="0a1b2c3d-s0", name="a run")


@pytest.fixture(autouse=True)
def _nobody(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user without a key, without settings, and without a server but this machine."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.chdir(home)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server, with a key for it."""
    with serving() as server:
        use(monkeypatch, server.url)
        yield server


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def sync(*arguments: object) -> str:
    """What a user does later."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *map(str, arguments)], stdin=subprocess.DEVNULL, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stderr


def only_id(folder: Path) -> str:
    return json.loads((folder / IDENTITY).read_text())["id"]


def test_without_a_key_a_run_is_offline_and_says_so_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody is asked"))
    config = compose("train", QUICK)
    train(config, tmp_path / "wandb")
    told = [line for line in "".join(capfd.readouterr()).splitlines() if "W&B" in line or "wandb" in line]
    assert_lines(told, ("no key", "`wandb login`", "offline", f"`wandb sync {tmp_path}/wandb/wandb`"))
    assert list((tmp_path / "wandb" / "wandb").glob("offline-run-*"))
    train(config.replace(logger={"name": "csv"}), tmp_path / "csv")
    assert logged(tmp_path / "csv") == logged(tmp_path / "wandb")


def test_the_settings_of_a_strangers_folder_say_neither_server_nor_entity(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B itself would send the key to the server that ``wandb/settings`` in the current folder names."""
    Path("wandb").mkdir()
    Path("wandb", "settings").write_text("[default]\nbase_url = http://127.0.0.1:9/theirs\nentity = them\n")
    monkeypatch.delenv("WANDB_BASE_URL")
    wandb_runs.warn_of_ignored_settings.cache_clear()
    settings = wandb_runs.wandb_module().setup().settings
    assert "theirs" not in settings.base_url
    assert (settings.entity, settings.root_dir) == (None, os.getcwd())
    assert capsys.readouterr().out.startswith("wandb/settings is not read, whoever wrote it: logger.project, ")


def test_a_validation_split_is_what_summary_and_axes_are_of(stub: Stub, tmp_path: Path) -> None:
    config = compose("train", [*QUICK, "data.validation=0.2"])
    result = train(config, tmp_path)
    (logged,) = stub.runs.values()
    assert logged.summary["validation_error"] == result["validation_error"]
    assert not [key for key in logged.summary if key.startswith("test")]
    assert [epoch for epoch, _ in logged.curve("validation/error", "epoch")] == [0, 1]


def test_what_a_server_is_told_of_a_run(stub: Stub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = compose("train", [*QUICK, "architecture=lm_resnet"])
    result = train(config, tmp_path, group="a comparison")
    (name, told), *others = stub.runs.items()
    assert not others
    assert told.complete
    assert name == only_id(tmp_path)
    assert name.startswith(f"{config.recipe_hash}-s0-")
    assert (told.group, told.job_type, told.project) == ("a comparison", "train", "schemenet")
    assert told.name == "lm_resnet-linear_multistep-11k-s0"
    assert told.tags == ["linear_multistep", "lm_resnet", "digits", "11k parameters"]
    assert told.config["trainer"]["max_epochs"] == 2
    assert "options" not in told.config  # Lightning's own copy of half of the config
    assert told.summary["ledger"] == result["ledger"]
    assert (told.summary["status"], told.summary["test_error"]) == ("done", result["test_error"])
    assert not [key for row in told.history for key in row if "ledger" in key]
    assert [step for step, _ in told.curve("train/loss")] == [0, 1, 2, 3, 4, 5]
    assert [epoch for epoch, _ in told.curve("test/error", "epoch")] == [0, 1]
    assert [epoch for epoch, _ in told.curve("k/flow0/step1", "epoch")] == [0, 0, 1]
    axes = told.metrics
    assert (axes["train/*"], axes["test/*"], axes["k/*"]) == ("trainer/global_step", "epoch", "epoch")
    assert axes["nfe/forward/epoch"] == "epoch"
    said = "".join(capfd.readouterr())
    lines = [line for line in said.splitlines() if "wandb" in line or "W&B" in line]
    assert_lines(lines, (f"{stub.url}/nobody/schemenet/runs/{name}",))


def test_tags_notes_group_and_checkpoint_of_the_users_own(stub: Stub, tmp_path: Path) -> None:
    options = ["logger.tags=[mine,resnet]", "logger.notes='after lunch'", "logger.group=g", "logger.checkpoint=true"]
    train(compose("train", [*QUICK, "trainer.max_epochs=1", *options]), tmp_path, group="a comparison")
    (run,) = stub.runs.values()
    assert (run.group, run.notes) == ("g", "after lunch")
    assert run.tags[-1:] == ["mine"]
    assert len(run.tags) == len(set(run.tags)) == 5
    assert [artifact["artifactTypeName"] for artifact in run.artifacts] == ["model"]
    with pytest.raises(SchemenetError, match=r"logger\.tags: expected tags of 1 to 64 characters, got ''"):
        check({"name": "wandb", "tags": ["a", ""]})


def test_inversion_error_is_a_curve(tmp_path: Path) -> None:
    config = compose(
        "train", [*QUICK[:-1], "logger=csv", "architecture=revnet", "gradient=reversible", "architecture.depth=38"]
    )
    train(config, tmp_path)
    rows = [row.split(",") for row in (tmp_path / "metrics.csv").read_text().splitlines()]
    place = rows[0].index("inversion/error")
    errors = [float(row[place]) for row in rows[1:] if row[place]]
    assert len(errors) == 2
    assert all(0 < error < 1e-4 for error in errors)


def blocked() -> tuple[str, list[socket.socket]]:
    """An address from which no answer comes at all: the queue of who wants to connect is full."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(listening.getsockname())
    return f"http://127.0.0.1:{listening.getsockname()[1]}", [listening, *waiting]


def log(folder: Path, rows: range, **options: Any) -> Any:
    run = begin(folder, **{"mode": None, "id": "x-1", "project": "p", **options})
    for i in rows:
        run.log({"a": i})
    return run


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("dead", "does not answer"),
        ("blocked", "does not answer"),
        ("hangs", "does not answer"),
        ("fails", "answers 500"),
        ("refuses", "does not take the key"),
        ("hangs later", "cannot be used"),
    ],
)
def test_a_server_that_cannot_be_used_makes_a_run_offline(
    state: str, reason: str, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(wandb_runs, "ANSWER", 0.5)
    monkeypatch.setattr(wandb_runs, "WITHIN", 2.5)
    address, held = blocked()
    match state:
        case "dead":
            stub.close()
        case "blocked":
            use(monkeypatch, address)
        case "hangs later":
            stub.hangs_at = "UpsertBucket"
        case _:
            stub.state = state
    run = log(tmp_path, range(3))
    assert run.offline
    finish(run, tmp_path, 0)
    said = "".join(capfd.readouterr()).strip().splitlines()
    assert len(said) == 1
    assert reason in said[0]
    assert said[0].endswith(f"logged offline; `wandb sync {tmp_path}/wandb` sends it")
    for one in held:
        one.close()


def test_fifteen_seconds_are_enough_for_every_wait() -> None:
    teardown, offline = 2.0, 1.0
    assert wandb_runs.ANSWER < wandb_runs.WITHIN
    assert wandb_runs.WITHIN + teardown + offline < 15


def test_a_network_that_is_lost_costs_nothing(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    run = log(tmp_path, range(5), patience=1.0)
    stub.close()
    for i in range(5, 10):
        run.log({"a": i})
    finish(run, tmp_path, 0)
    *_, said = "".join(capfd.readouterr()).strip().splitlines()
    assert f"`wandb sync --include-online {tmp_path}/wandb`" in said
    wandb.teardown()
    with serving() as again:
        use(monkeypatch, again.url)
        sync("--include-online", tmp_path / "wandb")
        assert [row["a"] for row in again.runs["x-1"].history] == list(range(10))
        assert again.runs["x-1"].complete


def test_a_run_that_goes_on_continues_its_curve(stub: Stub, tmp_path: Path) -> None:
    ids = []
    for resumes in (False, True, False):
        with opened(WANDB, tmp_path, ABOUT, resumes) as made:
            made[-1].log_metrics({"train/loss": 1.0}, step=len(ids))
        ids.append(only_id(tmp_path))
    assert ids[0] == ids[1] != ids[2]
    told = stub.runs[ids[0]]
    assert told.curve("train/loss") == [(0, 1.0), (1, 1.0)]
    assert [row["_step"] for row in told.history] == [0, 1]
    assert told.summary["_step"] == 1


def test_parts_of_an_offline_run_are_sent_as_one_curve(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(log(tmp_path, range(3), mode="offline"), tmp_path, 0)
    run = log(tmp_path, range(3, 5), resumes=True)
    assert run.offline  # though there is a server now
    finish(run, tmp_path, 0)
    assert not stub.runs
    wandb.teardown()
    sync(*sorted((tmp_path / "wandb").glob("offline-run-*")))
    assert [(row["_step"], row["a"]) for row in stub.runs["x-1"].history] == [(i, i) for i in range(5)]


KILLED = """
import os, pathlib, time
from lightning_modules.loggers.wandb import begin
run = begin(pathlib.Path("run"), mode="offline", id="x-1", project="p")
run.log({"a": 7})
time.sleep(2)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_run_has_logged_is_in_its_folder(stub: Stub, tmp_path: Path) -> None:
    """But for the last second; W&B's own way is to write each quarter of a minute, and then nothing can be read."""
    (tmp_path / "run").mkdir()
    assert subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False).returncode == -9
    sync(tmp_path / "run" / "wandb")
    assert [row["a"] for row in stub.runs["x-1"].history] == [7]


def test_training_goes_on_when_the_process_of_wandb_is_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise ConnectionResetError("Connection lost")

    config = {"name": "wandb", "project": None, "entity": None, "mode": "offline"}
    with opened(config, tmp_path, About(key="r-s0", name="run"), resumes=False) as (rows, curves):
        monkeypatch.setattr(curves.experiment, "log", gone)
        for step in (0, 1):
            for logger in (rows, curves):
                logger.log_metrics({"train/loss": 1.0}, step)
    said = "".join(capfd.readouterr())
    assert said.count("W&B's process has ended (Connection lost): metrics are logged without it") == 1
    assert (tmp_path / "metrics.csv").read_text().count("1.0") == 2


def test_the_agent_of_a_sweep_names_its_runs(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    with opened(WANDB, tmp_path, ABOUT, False):
        pass
    assert list(stub.runs) == ["of-the-agent"]
    assert stub.runs["of-the-agent"].group is None


def test_a_run_that_fails_is_a_failed_one(stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened(WANDB, tmp_path, ABOUT, False):
        raise ZeroDivisionError
    assert stub.runs[only_id(tmp_path)].exit_code == 1


def test_the_mode_is_settled_once_for_many_runs(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settled(WANDB, tmp_path)["mode"] == "online"
    assert "WANDB_SERVICE" not in os.environ  # else the runs would share the process of this one
    stub.state = "refuses"
    assert settled(WANDB, tmp_path)["mode"] == "offline"
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"`wandb sync {tmp_path}/*/seed*/wandb`" in said
    assert settled({"name": "csv"}, tmp_path) == {"name": "csv"}
    monkeypatch.setenv("WANDB_MODE", "offline")
    requests = len(stub.requests)
    assert settled_mode(None) == ("offline", None)
    assert settled_mode("disabled") == ("disabled", None)
    assert len(stub.requests) == requests
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(SchemenetError, match="expected offline, online, disabled, got 'sometimes'"):
        settled_mode(None)


def test_a_report_is_one_run_of_its_group(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text("arm,test_error_mean,p\nresnet,0.25,\n")
    (tmp_path / "results.csv").write_text("arm,seed\nresnet,0\nresnet,1\n")
    (tmp_path / "report.md").write_text("# Report")
    (tmp_path / "report.html").write_text("<html><body>Report</body></html>")
    Image.new("RGB", (8, 8)).save(tmp_path / "pareto.png")
    log_report(tmp_path, "cmp", {**WANDB, "name": "csv"})
    assert not stub.requests
    for _ in range(2):
        log_report(tmp_path, "cmp", WANDB)
    (told,) = stub.runs.values()
    assert (told.group, told.job_type, told.name, told.complete) == ("cmp", "report", "report cmp", True)
    assert told.summary["summary"]["ncols"] == 3
    assert told.summary["results"]["nrows"] == 2
    assert told.summary["plots/pareto"]["_type"] == "image-file"
    assert told.summary["page"]["_type"] == "html-file"
    assert {file.split("/")[1] for file in told.files if file.startswith("media/")} == {"table", "images", "html"}
    assert any(artifact["artifactTypeName"] == "report" for artifact in told.artifacts)
