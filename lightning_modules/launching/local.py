"""Runs on this machine: one process for each, so many side by side."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_modules.launching.lock import is_locked
from lightning_modules.launching.order import LOG, Order, command, told_death
from lightning_modules.launching.watch import Watch
from lightning_modules.registries import LAUNCHERS
from schemes.errors import SchemenetError

TICK = 0.2  # seconds between two looks at what runs
PATIENCE = 30.0  # seconds that runs are given for a step and a checkpoint when all is stopped


@LAUNCHERS.register("local")
def local(orders: Sequence[Order], watch: Watch, *, jobs: int | None = None, threads: int | None = None) -> None:
    """Processes on this machine, ``jobs`` side by side; each has a process group of its own and ends with this one.

    ``jobs`` null: one for each device, or set of devices where a run takes several; two on a machine without. Devices
    are those of CUDA_VISIBLE_DEVICES, or all. ``threads`` null: the cores are shared out among the jobs.
    """
    if jobs is not None and jobs < 1:
        raise SchemenetError(f"launcher.jobs: expected at least 1, got {jobs}")
    shares = device_shares(_devices(orders), _devices_of_a_run(orders))
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
                    running[order] = (_start(order, threads, devices), seat)
                    watch.began(order)
                except (OSError, SchemenetError) as error:  # a folder that cannot be made, no process to be had
                    watch.ended(order, f"FAILED to start, {error}")
            watch.look(elsewhere=[order for order in waiting if is_locked(order.folder)])
            time.sleep(TICK)
            for order, (process, _) in list(running.items()):
                if process.poll() is not None:
                    del running[order]
                    _kill_group(process)
                    order.note_failure(told_death(process.returncode))
                    watch.ended(order)
    finally:
        _stop([process for process, _ in running.values()])


def device_shares(devices: Sequence[str], of_a_run: int) -> list[str]:
    """The values of CUDA_VISIBLE_DEVICES that share devices out, so many to a run; none where there are too few."""
    whole = len(devices) // of_a_run * of_a_run
    return [",".join(devices[first : first + of_a_run]) for first in range(0, whole, of_a_run)]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(threads: int) -> dict[str, str]:
    """What every process of a run gets to know."""
    # The packages may be run from a clone that is not installed, and the working directory is the user's.
    root = str(Path(__file__).resolve().parents[2])
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }


def _devices(orders: Iterable[Order]) -> list[str]:
    """The devices that the runs may use."""
    if all(order.config["trainer"]["accelerator"] == "cpu" for order in orders):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip() not in ("", "-1")]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]


def _devices_of_a_run(orders: Iterable[Order]) -> int:
    """The most devices that one run asks for; all of them, where it says "auto"."""
    asked = [order.config["trainer"]["devices"] for order in orders]
    return max([1, *(int(devices) for devices in asked if str(devices).isdigit())])


def _start(order: Order, threads: int, devices: str | None) -> subprocess.Popen[bytes]:
    known = environment(threads) | ({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})
    wanted = command(order, "--leash")
    (order.folder / LOG).unlink(missing_ok=True)
    with (order.folder / LOG).open("xb") as log:
        return subprocess.Popen(
            wanted, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=known, start_new_session=True
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all to stop, so that each writes a checkpoint; those that take too long are killed."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    try:
        for process in processes:
            process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            _kill_group(process)
            process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End what a run has left behind, the other processes of one on several devices."""
    _signal_group(process, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # the group is empty already
        os.killpg(process.pid, number)
