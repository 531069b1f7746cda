"""Runs on this machine: one process for each, so many side by side."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Sequence

from lightning_modules.config.registries import LAUNCHERS
from lightning_modules.launching.job import Order, devices_of_a_run
from lightning_modules.launching.progress import Watch
from lightning_modules.launching.run_lock import is_locked
from lightning_modules.launching.subprocesses import TICK, end, kill_rest, start, told_death
from lightning_modules.machine import cores
from lightning_modules.training.trainers import MOST, processes_to_begin
from schemes.errors import SchemenetError

JOBS_A_CORE = 8
"""Runs side by side that a core is trusted with at most: each takes half a gigabyte before it trains anything."""


@LAUNCHERS.register("local")
def local(orders: Sequence[Order], watch: Watch, *, jobs: int | None = None, threads: int | None = None) -> None:
    """Processes on this machine, ``jobs`` side by side; each has a process group of its own and ends with this one.

    ``jobs`` null: one for each device, or set of devices where a run takes several; two on a machine without. Devices
    are those of CUDA_VISIBLE_DEVICES, or all. ``threads`` null: the cores are shared out among the jobs.
    """
    if jobs is not None and jobs < 1:
        raise SchemenetError(f"launcher.jobs: expected at least 1, got {jobs}")
    if jobs is not None and jobs > (most := JOBS_A_CORE * cores()):
        raise SchemenetError(f"launcher.jobs: expected at most {most}, {JOBS_A_CORE} for each core, got {jobs:,}")
    if threads is not None and not 1 <= threads <= MOST:
        raise SchemenetError(f"launcher.threads: expected 1 to {MOST:,}, got {threads:,}")
    for options in {json.dumps(order.config["trainer"]): order.config["trainer"] for order in orders}.values():
        processes_to_begin(options)
    shares = device_shares(_devices(orders), devices_of_a_run(orders))
    jobs = jobs or len(shares) or min(2, cores())
    threads = threads or max(1, cores() // jobs)
    waiting = list(orders)
    running: dict[Order, tuple[subprocess.Popen[bytes], int]] = {}
    try:
        while waiting or running:
            for order in [order for order in waiting if not is_locked(order.folder)][: jobs - len(running)]:
                waiting.remove(order)
                if order.done:  # by the process that held it
                    watch.ended(order)
                    continue
                seat = min(set(range(jobs)) - {taken for _, taken in running.values()})
                devices = shares[seat % len(shares)] if shares else None
                try:
                    running[order] = (start(order.write(), threads, devices=devices), seat)
                    watch.began(order)
                except (OSError, SchemenetError) as error:  # a folder that cannot be made, no process to be had
                    watch.ended(order, f"FAILED to start, {error}")
            watch.look(elsewhere=[order for order in waiting if is_locked(order.folder)])
            time.sleep(TICK)
            for order, (process, _) in list(running.items()):
                if process.poll() is not None:
                    del running[order]
                    kill_rest(process)
                    order.note_failure(told_death(process.returncode))
                    watch.ended(order)
    finally:
        end([process for process, _ in running.values()])


def device_shares(devices: Sequence[str], of_a_run: int) -> list[str]:
    """The values of CUDA_VISIBLE_DEVICES that share devices out, so many to a run; none where there are too few."""
    whole = len(devices) // of_a_run * of_a_run
    return [",".join(devices[first : first + of_a_run]) for first in range(0, whole, of_a_run)]


def _devices(orders: Iterable[Order]) -> list[str]:
    """The devices that the runs may use."""
    if all(order.config["trainer"]["accelerator"] == "cpu" for order in orders):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip() not in ("", "-1")]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]
