"""Runs on engines: submitit's local executor, a stand-in for Slurm's commands, a Ray cluster of two nodes."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_modules.cli import main
from lightning_modules.comparing.plan import Plan
from lightning_modules.comparing.run import carry_out
from lightning_modules.comparing.sweep import plan_sweep
from lightning_modules.config.compose import compose
from lightning_modules.config.registries import LAUNCHERS
from lightning_modules.config.sweep_grid import compose_grid
from lightning_modules.launching import ray as ray_launcher
from lightning_modules.launching import slurm
from lightning_modules.launching import subprocesses as process
from lightning_modules.launching.job import Job
from lightning_modules.launching.progress import Watch
from lightning_modules.launching.run_lock import LOCK, is_locked
from lightning_modules.storage.atomic_files import write_json
from lightning_modules.storage.run_files import LOG
from schemes.errors import SchemenetError
from tests.support import slurm_stand_in

ROOT = Path(__file__).resolve().parents[3]

TINY = [
    "architecture.depth=8", "architecture.width=0.25", "data=digits", "data.limit_train=64", "data.batch_size=8",
    "trainer.accelerator=cpu", "trainer.max_epochs=15", "trainer.check_test_every_n_epoch=15",
    "trainer.checkpoint_every_n_steps=2", "logger=csv",
]  # fmt: skip

Act = Callable[[], bool]
"""Something done to runs while they are watched; true when it has been done."""


def make_job(folder: Path, seed: int, *words: str) -> Job:
    return Job(folder / "resnet" / f"seed{seed}", compose("train", [*TINY, *words, f"seed={seed}"]), "resnet", "g")


class Meddling(Watch):
    """Does things to runs while they are watched, each once, when its time has come."""

    def __init__(self, jobs: list[Job], *acts: Act) -> None:
        self.told = io.StringIO()
        super().__init__(jobs, Console(file=self.told, soft_wrap=True))
        self.acts = list(acts)

    def look(self, elsewhere: Any = ()) -> None:
        super().look(elsewhere)
        self.acts = [act for act in self.acts if not act()]


def launch(name: str, jobs: list[Job], *acts: Act, **options: Any) -> str:
    """What is told while all jobs that are not done are carried out."""
    with Meddling(jobs, *acts) as watch:
        left = [job for job in jobs if not job.done]
        LAUNCHERS.build({"name": name, **options}, runs=left, watch=watch)
    assert not watch.acts, "a run ended before anything was done to it"
    assert not [job.name for job in jobs if is_locked(job.folder)], "a run has been left behind"
    return watch.told.getvalue()


def log(job: Job) -> str:
    return (job.folder / LOG).read_text(encoding="utf-8")


def went_on(job: Job) -> bool:
    return job.done and re.search(r"resumes from epoch \d+, step [1-9]", log(job)) is not None


def trainer_of(job: Job) -> int:
    """The process that trains."""
    return int(re.findall(r"process (\d+)", (job.folder / LOCK).read_text())[0])


def waiter_of(job: Job) -> int:
    """The process that waits for the one that trains."""
    asked = ["ps", "-o", "ppid=", "-p", str(trainer_of(job))]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def when_it_trains(job: Job, do: Callable[[], None]) -> Act:
    def act() -> bool:
        if job.progress() == 0:
            return False
        do()
        return True

    return act


def test_processes_find_these_packages_and_import_nothing_from_the_current_folder(
    strangers_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a clone that is not installed, and of one that PYTHONPATH names already; an empty entry is that folder too."""
    code = "import random, sys, lightning_modules; print(lightning_modules.__file__, *sys.path, sep='\\n')"
    for given in (None, "", os.pathsep, os.pathsep.join(["", str(ROOT), ""])):
        if given is None:
            monkeypatch.delenv("PYTHONPATH", raising=False)
        else:
            monkeypatch.setenv("PYTHONPATH", given)
        for command in (process.interpreter(), [sys.executable]):  # the second as a library begins one
            known = os.environ | process.import_environment()
            ran = subprocess.run([*command, "-c", code], env=known, capture_output=True, text=True, check=True)
            found, *searched = ran.stdout.splitlines()
            assert Path(found) == ROOT / "lightning_modules" / "__init__.py"
            assert str(strangers_folder) not in searched
            assert "" not in searched


def test_what_a_library_begins_imports_nothing_from_the_current_folder(strangers_folder: Path) -> None:
    code = (
        "import multiprocessing, subprocess, sys; from lightning_modules.cli import main; main(['--help']);"
        "subprocess.run([sys.executable, '-c', 'import random'], check=False);"
        "spawned = multiprocessing.get_context('spawn').Process(target=print); spawned.start(); spawned.join()"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "this is of the current folder" not in ran.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("strangers_folder")
def test_local_jobs_of_submitit_go_on_when_requeued_and_a_failed_one_keeps_its_reason(tmp_path: Path) -> None:
    requeued, failing = make_job(tmp_path, 0), make_job(tmp_path, 1, "data=mnist", f"data.root={tmp_path / 'none'}")
    warn = when_it_trains(requeued, lambda: os.kill(waiter_of(requeued), signal.SIGUSR2))
    told = launch("slurm", [requeued, failing], warn, cluster="local", cpus_per_task=1)
    assert "submitted 2 runs as local jobs" in told
    assert went_on(requeued)
    assert "stopping after this step" in log(requeued)  # it was asked, not killed
    assert "seed 1: FAILED, SchemenetError: " in told
    assert not failing.done
    assert not [
        job for job in (slurm.SlurmJob.of(o.folder) for o in (requeued, failing)) if job in slurm.SlurmJob.left([job])
    ]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands, by a stand-in; its state."""
    state = tmp_path / "state"
    state.mkdir()
    slurm_stand_in.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("STAND_IN_FOR_SLURM", str(state))
    for table in (slurm.QUERY_PERIOD, slurm.LOOK_PERIOD):
        monkeypatch.setitem(table, "slurm", 0.2)
    return state


@pytest.mark.slow
@pytest.mark.usefixtures("strangers_folder")
def test_slurm_jobs_outlive_the_command_and_are_never_submitted_twice(tmp_path: Path, stand_in: Path) -> None:
    preempted, killed = jobs = [make_job(tmp_path / "runs", seed) for seed in (0, 1)]

    def freezing(job: Job) -> Act:
        """It trains, and then stands still, so that it is not done before the command is given again."""
        return when_it_trains(job, lambda: os.kill(trainer_of(job), signal.SIGSTOP))

    def interrupt() -> bool:
        if len(watch.acts) == 1:
            raise KeyboardInterrupt
        return False

    setup = ["module() { :; }", "module load x"]
    options = {"partition": "gpu", "gres": "gpu:1", "timeout_min": 90, "cpus_per_task": 1, "setup": setup}
    with Meddling(jobs, *map(freezing, jobs), interrupt) as watch, pytest.raises(KeyboardInterrupt):
        LAUNCHERS.build({"name": "slurm", **options}, runs=jobs, watch=watch)
    told = watch.told.getvalue()
    assert "submitted 2 runs as Slurm job 100" in told
    assert "2 runs continue as Slurm job 100: the same command watches again, `scancel 100` ends it" in told
    script = (stand_in / "100.sh").read_text()
    asked = ("array=0-1%2", "partition=gpu", "gres=gpu:1", "time=90", "ntasks-per-node=1", "signal=USR2@120")
    assert not [line for line in asked if f"#SBATCH --{line}\n" not in script]
    assert "module load x" in script

    def preempt() -> None:
        """As Slurm does: the signal goes to every process of the job."""
        trainer, waiter = trainer_of(preempted), waiter_of(preempted)
        for number in (trainer, waiter):
            os.kill(number, signal.SIGUSR2)
        os.kill(trainer, signal.SIGCONT)

    told = launch(
        "slurm",
        jobs,
        when_it_trains(preempted, preempt),
        when_it_trains(killed, lambda: os.kill(trainer_of(killed), signal.SIGKILL)),
        **options,
    )
    assert "2 runs queued or running as Slurm job 100; watching" in told
    assert "seed 1: FAILED, killed by SIGKILL" in told
    assert went_on(preempted)
    assert len(list(stand_in.glob("*.sh"))) == 1

    assert "submitted 1 run as Slurm job 101" in launch("slurm", jobs, **options)
    assert went_on(killed)


def test_slurm_that_does_not_answer_is_told_once_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while its controller is restarted; the job has ended meanwhile."""
    answers: list[bool | None] = [True, None, None, True, None, False, False]

    def left(jobs: Iterable[slurm.SlurmJob]) -> set[slurm.SlurmJob]:
        if (queued := answers.pop(0)) is None:
            raise slurm.NoAnswer("Slurm does not say what is queued (connection refused)")
        return set(jobs) if queued else set()

    monkeypatch.setattr(slurm.SlurmJob, "left", left)
    for table in (slurm.QUERY_PERIOD, slurm.LOOK_PERIOD):
        monkeypatch.setitem(table, "slurm", 0.0)
    job = make_job(tmp_path, 0)
    job.write()
    write_json(job.folder / slurm.SLURM_JOB, {"id": "7_0", "folder": str(tmp_path), "cluster": "slurm"})
    with Meddling([job]) as watch:
        slurm.follow({job: slurm.SlurmJob("7_0", str(tmp_path), "slurm")}, watch)
    told = watch.told.getvalue()
    assert told.count("(connection refused); the jobs continue, and the query is repeated") == 2  # of two times
    assert "its job 7_0 has ended" in told
    assert not answers


def test_runs_that_are_queued_are_not_begun_anew(
    tmp_path: Path, stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job would train what it was submitted as; also where another launcher is to do the new runs."""
    run = tmp_path / "runs" / "heun" / "seed0"
    run.mkdir(parents=True)
    write_json(run / slurm.SLURM_JOB, {"id": "100_0", "folder": str(tmp_path), "cluster": "slurm"})
    (stand_in / "queued.100_0").touch()
    command = ["sweep", *TINY, "scheme=heun,rk3", f"folder={tmp_path / 'runs'}", "overwrite=true"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "overwrite: 1 run queued or running as Slurm job 100 would train what they were submitted as" in told
    assert "`scancel 100` ends them" in told
    (stand_in / "broken").touch()
    assert main(command) == 2
    assert "does not say what is queued (slurm_load_jobs error)" in capsys.readouterr().err
    assert os.listdir(tmp_path / "runs") == ["heun"]


def test_a_job_has_time_for_its_warning(tmp_path: Path) -> None:
    with pytest.raises(SchemenetError, match=r"timeout_min: expected at least 4, got 1: a job is warned 120 seconds"):
        LAUNCHERS.build({"name": "slurm", "cluster": "local", "timeout_min": 1}, runs=[], watch=Watch([]))


def test_without_slurm_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchemenetError, match="no 'sbatch' here; give the command on a login node"):
        LAUNCHERS.build("slurm", runs=[make_job(tmp_path, 0)], watch=Watch([]))


def test_a_run_on_several_nodes_has_a_task_for_each_device(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("only asked")

    monkeypatch.setattr("submitit.AutoExecutor.map_array", refuse)
    seen: dict[str, Any] = {}
    monkeypatch.setattr("submitit.AutoExecutor.update_parameters", lambda _, **told: seen.update(told))
    wide = make_job(tmp_path, 0, "trainer.devices=2", "trainer.accelerator=gpu")
    with pytest.raises(SchemenetError, match="the jobs were refused: only asked"):
        LAUNCHERS.build({"name": "slurm", "nodes": 3}, runs=[wide], watch=Watch([]))
    assert (seen["nodes"], seen["tasks_per_node"], seen["gpus_per_node"]) == (3, 2, 2)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray cluster with two nodes of one core each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # where Ray keeps what opens a cluster
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONWARNINGS", "ignore")
        cluster = pytest.importorskip("ray.cluster_utils").Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        try:
            cluster.add_node(num_cpus=1)
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("strangers_folder")
def test_ray_tries_a_killed_task_again_from_its_checkpoint(tmp_path: Path, two_nodes: str) -> None:
    killed, failing = make_job(tmp_path, 0), make_job(tmp_path, 1, "data=mnist", f"data.root={tmp_path / 'none'}")
    kill = when_it_trains(killed, lambda: os.kill(waiter_of(killed), signal.SIGKILL))
    told = launch("ray", [killed, failing], kill, address=two_nodes)
    assert went_on(killed)
    assert "seed 1: FAILED, SchemenetError: " in told
    assert not failing.done


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "launcher.jobs: expected at least 1, got 0"),
        ({"jobs": 100_000}, r"launcher.jobs: expected at most \d+, 8 for each core, got 100,000"),
        ({"threads": 0}, "launcher.threads: expected 1 to 1,024, got 0"),
        ({"threads": 1_000_000}, "launcher.threads: expected 1 to 1,024, got 1,000,000"),
    ],
)
def test_more_processes_than_a_machine_bears_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(SchemenetError, match=message):
        LAUNCHERS.build({"name": "local", **options}, runs=[], watch=Watch([]))


@pytest.mark.parametrize(
    "launcher",
    [
        {"name": "local", "jobs": 100_000},
        {"name": "ray", "num_cpus": 0},
        {"name": "slurm", "cluster": "local", "timeout_min": 1},
    ],
    ids=lambda launcher: launcher["name"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_launcher_that_refuses_its_options_leaves_the_folder_as_it_was(
    tmp_path: Path, launcher: dict[str, Any], overwrite: bool
) -> None:
    """Also one that was to begin anew: the finished runs are still there."""
    folder = tmp_path / "sweep"
    if overwrite:
        (folder / "heun" / "seed0").mkdir(parents=True)
        for file in ("heun/seed0/result.json", "comparison.json"):
            write_json(folder / file, {})
    before = contents(tmp_path)
    with pytest.raises(SchemenetError, match=r"launcher\.\w+: expected at "):
        carry_out(
            Plan((), "heun", (0,), None, {}), {}, folder, {"launcher": launcher, "overwrite": overwrite, "logger": {}}
        )
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("stand_in")
def test_jobs_that_slurm_refuses_leave_the_folder_as_it_was(tmp_path: Path) -> None:
    """Slurm alone knows its partitions: a first command leaves nothing, a wider one the plan of the first."""
    refusal = "sbatch: error: invalid partition specified: gpu"
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\necho '{refusal}' >&2\nexit 1\n")
    folder = tmp_path / "runs"
    configs = compose_grid([*TINY, "scheme=heun,rk3", "launcher=slurm", "launcher.partition=gpu"])[1]
    plan = plan_sweep(configs, (0,))
    document, wider = plan.document("", {}, ""), replace(plan, seeds=(0, 1))
    before = contents(tmp_path)
    with pytest.raises(SchemenetError, match=f"the jobs were refused: {refusal}"):
        carry_out(plan, document, folder, configs["heun"])
    assert contents(tmp_path) == before

    (folder / "heun" / "seed0").mkdir(parents=True)
    for file in ("comparison.json", "heun/seed0/run.json"):
        write_json(folder / file, document)
    before = contents(tmp_path)
    with pytest.raises(SchemenetError, match=f"the jobs were refused: {refusal}"):
        carry_out(wider, wider.document("", {}, ""), folder, configs["heun"])
    assert contents(tmp_path).keys() == before.keys()
    assert contents(tmp_path)["runs/comparison.json"] == before["runs/comparison.json"]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below one, and what is in the files."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(SchemenetError, match=r"does not see .*none; the nodes of a Ray cluster need a file system"):
        ray_launcher.attend(str(tmp_path / "none"), 1, str(tmp_path))
