"""Launcher for this machine: one process for each run, several at once."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lightning_modules.config.registries import LAUNCHERS
from lightning_modules.launching.fork_server import starter
from lightning_modules.launching.job import Job, devices_of_a_run
from lightning_modules.launching.progress import Watch
from lightning_modules.launching.run_lock import is_locked
from lightning_modules.launching.subprocesses import TICK, RunProcess, describe_exit, end, kill_rest
from lightning_modules.machine import cores
from lightning_modules.training.trainers import MOST, processes_to_begin
from schemes.errors import SchemenetError

JOBS_A_CORE = 8
"""The most runs at once for each core: a run takes half a gigabyte before it trains."""


@LAUNCHERS.register("local")
def local(runs: Sequence[Job], watch: Watch, *, jobs: int | None = None, threads: int | None = None) -> None:
    """Processes on this machine; each has a separate process group and ends with this process.

    Args:
        runs: the jobs to do.
        watch: the display of their progress.
        jobs: runs at once; null: one for each device (of CUDA_VISIBLE_DEVICES, or all), or for each set of devices
            where a run takes several; two on a machine without devices.
        threads: CPU threads of each run; null: the cores are divided among the jobs.

    Raises:
        SchemenetError: ``jobs`` or ``threads`` is out of range, or a run cannot begin its processes here.
    """
    if jobs is not None and jobs < 1:
        raise SchemenetError(f"launcher.jobs: expected at least 1, got {jobs}")
    if jobs is not None and jobs > (most := JOBS_A_CORE * cores()):
        raise SchemenetError(f"launcher.jobs: expected at most {most}, {JOBS_A_CORE} for each core, got {jobs:,}")
    if threads is not None and not 1 <= threads <= MOST:
        raise SchemenetError(f"launcher.threads: expected 1 to {MOST:,}, got {threads:,}")
    for options in {json.dumps(job.config["trainer"]): job.config["trainer"] for job in runs}.values():
        processes_to_begin(options)
    shares = device_shares(_devices(runs), devices_of_a_run(runs))
    jobs = jobs or len(shares) or min(2, cores())
    threads = threads or max(1, cores() // jobs)
    waiting = list(runs)
    running: dict[Job, tuple[RunProcess, int]] = {}
    with starter(threads) as start, _ended(running):
        while waiting or running:
            for job in [job for job in waiting if not is_locked(job.folder)][: jobs - len(running)]:
                waiting.remove(job)
                if job.done:  # by the process that had locked it
                    watch.ended(job)
                    continue
                seat = min(set(range(jobs)) - {taken for _, taken in running.values()})
                devices = shares[seat % len(shares)] if shares else None
                try:
                    running[job] = (start(job.write(), devices), seat)
                    watch.began(job)
                except (OSError, SchemenetError) as error:  # a folder that cannot be made, no process to be had
                    watch.ended(job, f"FAILED to start, {error}")
            watch.look(elsewhere=[job for job in waiting if is_locked(job.folder)])
            time.sleep(TICK)
            for job, (process, _) in list(running.items()):
                if (status := process.poll()) is not None:
                    del running[job]
                    kill_rest(process)
                    job.record_failure(describe_exit(status))
                    watch.ended(job)


@contextlib.contextmanager
def _ended(running: Mapping[Job, tuple[RunProcess, int]]) -> Iterator[None]:
    """What still runs at the end, which an exception has brought about, is stopped."""
    try:
        yield
    finally:
        end([process for process, _ in running.values()])


def device_shares(devices: Sequence[str], of_a_run: int) -> list[str]:
    """Divide devices among runs.

    Args:
        devices: names of devices.
        of_a_run: devices of each run.

    Returns:
        Values of CUDA_VISIBLE_DEVICES, one for each run at once; none where there are too few devices.
    """
    whole = len(devices) // of_a_run * of_a_run
    return [",".join(devices[first : first + of_a_run]) for first in range(0, whole, of_a_run)]


def _devices(runs: Iterable[Job]) -> list[str]:
    """The devices that the runs may use."""
    if all(job.config["trainer"]["accelerator"] == "cpu" for job in runs):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip() not in ("", "-1")]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]
