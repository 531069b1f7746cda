"""Runs as jobs of a real Slurm of two nodes, which is begun on this machine for the test: `make test-slurm`.

Some minutes. Ports, files and configuration are its own; what another Slurm of this machine does is left alone.
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.cli import main
from lightning_modules.launching import slurm
from tests.lightning_modules.launching.test_launchers import TINY, launch, make_job, trainer_of, went_on

pytestmark = pytest.mark.slurm

PATIENCE = 240.0
"""Seconds for anything that is waited for; a test that hangs ends."""

Story = Iterator[bool]
"""What happens while runs are watched, step by step: false until the next one's time has come."""

CONFIGURATION = """
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2,requeue_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{preempt}
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
MinJobAge=60
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
"""


class Cluster:
    """The daemons of a Slurm, as processes of this one."""

    def __init__(self, folder: Path) -> None:
        for name in ("state", "n1", "n2"):
            (folder / name).mkdir()
        sockets = [socket.socket() for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        version = re.search(r"(\d+)\.(\d+)", _said("slurmctld", "-V"))
        assert version is not None
        old = (int(version[1]), int(version[2])) < (23, 2)
        preempt = "SlurmctldParameters=preempt_send_user_signal" if old else "PreemptParameters=send_user_signal"
        text = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0], user=getpass.getuser(), folder=folder, preempt=preempt,
            ports=[one.getsockname()[1] for one in sockets],
        )  # fmt: skip
        for one in sockets:
            one.close()
        (folder / "slurm.conf").write_text(text, encoding="utf-8")
        without = "CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainRAMSpace=no\n"
        (folder / "cgroup.conf").write_text(without, encoding="utf-8")
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        self.folder = folder
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.controller: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.start_controller()
        self.nodes = [_daemon(self.folder, "slurmd", "-N", name) for name in ("n1", "n2")]
        wait_for(
            lambda: set(_said("sinfo", "--noheader", "-N", "--format=%N %T").splitlines()) == {"n1 idle", "n2 idle"}, 60
        )

    def start_controller(self) -> None:
        self.controller = _daemon(self.folder, "slurmctld")
        wait_for(lambda: "is UP" in _said("scontrol", "ping"), 60)

    def stop_controller(self) -> None:
        if self.controller is not None:
            _end(self.controller)

    def stop(self) -> None:
        subprocess.run(["scancel", "--me"], check=False)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not _said("squeue", "--noheader"), 30)
        for node in self.nodes:
            _end(node)
        self.stop_controller()


def _daemon(folder: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(["nice", name, "-D", *words], stdout=said, stderr=said, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def wait_for(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    for _ in until(condition, patience):
        time.sleep(0.2)


def until(condition: Callable[[], object], patience: float = PATIENCE) -> Story:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it took too long"
        yield False


def pause(seconds: float) -> Story:
    end = time.monotonic() + seconds
    return until(lambda: time.monotonic() > end)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "srun") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {missing[0]} here; docs/launchers.md says what to install")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", "")
        found = Cluster(tmp_path_factory.mktemp("slurm"))
        try:
            found.start()
            yield found
        finally:
            found.stop()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slurm.QUERY_PERIOD, "slurm", 2.0)
    monkeypatch.setitem(slurm.LOOK_PERIOD, "slurm", 0.2)


class Jobs:
    """Runs that are jobs, and what is done to them."""

    def __init__(self, folder: Path, count: int) -> None:
        self.jobs = [make_job(folder, seed) for seed in range(count)]
        self.folder = folder
        self.frozen: list[int] = []

    def freeze(self) -> Story:
        """Each trains, and then stands still until it is asked to stop: it is not done before."""
        yield from until(lambda: all(job.progress() for job in self.jobs))
        self.frozen = [trainer_of(job) for job in self.jobs]
        for number in self.frozen:
            os.kill(number, signal.SIGSTOP)

    def thaw_when_warned(self) -> Story:
        def warned() -> bool:
            said = "".join(path.read_text() for path in self.folder.rglob("*_log.err"))
            return said.count("Caught signal SIGUSR2") >= len(self.jobs)

        yield from until(warned)
        for number in self.frozen:
            os.kill(number, signal.SIGCONT)

    @property
    def ids(self) -> list[str]:
        return [s.id for job in self.jobs if (s := slurm.SlurmJob.of(job.folder)) is not None]

    def are_requeued(self) -> bool:
        queued = _said("squeue", "--noheader", "--me", "--array", "--format=%i %t").splitlines()
        return {f"{id} PD" for id in self.ids} <= set(queued)

    def begin_again(self) -> Story:
        """When what was there before is gone; Slurm has a requeued job wait for two minutes."""
        yield from pause(20.0)
        self.update("StartTime=now")

    def update(self, change: str) -> None:
        for id in self.ids:
            subprocess.run(["scontrol", "update", f"JobId={id}", change], check=True, timeout=60)

    def launch(self, story: Story, **options: Any) -> str:
        ends = itertools.chain(story, until(lambda: all(job.finished for job in self.jobs)))
        return launch("slurm", self.jobs, lambda: next(ends, True), cpus_per_task=1, **options)


@pytest.mark.usefixtures("strangers_folder")
def test_preempted_jobs_go_on_and_a_controller_that_is_gone_is_waited_for(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs(tmp_path / "runs", 2)

    def story() -> Story:
        yield from jobs.freeze()
        # A job of the partition that comes first, over both nodes.
        urgent = ["sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"]
        subprocess.run(urgent, check=True, timeout=60, stdout=subprocess.DEVNULL)
        yield from jobs.thaw_when_warned()
        yield from until(jobs.are_requeued)
        words = ["sweep", *TINY, "scheme=forward_euler,rk2", f"folder={jobs.folder}", "overwrite=true"]
        assert main(words) == 2
        assert "2 runs queued or running as Slurm job" in capsys.readouterr().err
        cluster.stop_controller()
        yield from pause(5 * slurm.QUERY_PERIOD["slurm"])
        cluster.start_controller()
        yield from jobs.begin_again()

    told = jobs.launch(story())
    assert "submitted 2 runs as Slurm job" in told
    assert told.count("the jobs continue, and the query is repeated") == 1
    assert [job.name for job in jobs.jobs if not went_on(job)] == []


@pytest.mark.usefixtures("strangers_folder")
def test_a_job_whose_time_is_up_is_requeued_and_goes_on(tmp_path: Path, cluster: Cluster) -> None:
    jobs = Jobs(tmp_path / "runs", 1)

    def story() -> Story:
        yield from jobs.freeze()
        (id,) = jobs.ids
        ran = re.search(r"RunTime=(\d+):(\d+):", _said("scontrol", "show", "job", id))
        assert ran is not None
        soon = 60 * int(ran[1]) + int(ran[2]) + 2  # minutes: the warning is due at once
        jobs.update(f"TimeLimit={soon}")
        yield from jobs.thaw_when_warned()
        yield from until(jobs.are_requeued)
        jobs.update("TimeLimit=60")
        yield from jobs.begin_again()

    jobs.launch(story())
    assert [job.name for job in jobs.jobs if not went_on(job)] == []
