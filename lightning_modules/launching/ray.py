"""Launcher for Ray: one task for each run, on an existing cluster or one that is begun on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning_modules.config.registries import LAUNCHERS
from lightning_modules.launching.job import Job, devices_of_a_run, read_job
from lightning_modules.launching.progress import Watch
from lightning_modules.launching.subprocesses import (
    PATIENCE,
    TICK,
    describe_exit,
    end,
    import_environment,
    interpreter,
    start,
    wait,
)
from lightning_modules.storage.run_files import JOB
from schemes.errors import SchemenetError


@LAUNCHERS.register("ray")
def ray(
    runs: Sequence[Job],
    watch: Watch,
    *,
    address: str | None = None,
    num_cpus: int = 1,
    num_gpus: float | None = None,
    resources: Mapping | None = None,
    max_retries: int = 20,
) -> None:
    """One Ray task for each run; all nodes must see the folder of the runs.

    Args:
        runs: the jobs to do.
        watch: the display of their progress.
        address: of ``ray.init``; null: RAY_ADDRESS, else a cluster is begun here and ended with the runs; ``auto`` is
            one that runs on this machine already.
        num_cpus: cores and threads of each run.
        num_gpus: GPUs of each run; null: trainer.devices, where trainer.accelerator is gpu or cuda, or auto and the
            cluster has GPUs.
        resources: of ``ray.remote``, by name.
        max_retries: how often a task is repeated whose worker or node dies; its run resumes from its checkpoint.

    Raises:
        SchemenetError: Ray is not installed, there is no cluster at ``address``, or ``num_cpus`` is below 1.
    """
    engine = _ray()
    if num_cpus < 1:
        raise SchemenetError(f"launcher.num_cpus: expected at least 1, got {num_cpus}")
    if not runs:
        return
    with _connected(engine, address):
        if num_gpus is None:
            num_gpus = _gpus_of_a_run(runs, "GPU" in engine.cluster_resources())
        needed = {"CPU": num_cpus, "GPU": num_gpus, **(resources or {})}
        if not any(_has(node, needed) for node in engine.nodes()):
            amounts = ", ".join(f"{amount:g} {name}" for name, amount in needed.items() if amount)
            watch.console.print(f"no node of the Ray cluster has {amounts}: runs wait until one joins it")
        limits = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": dict(resources or {})}
        task = engine.remote(max_calls=1, max_retries=max_retries, runtime_env=_python(engine), **limits)(attend)
        given: dict[Any, Job] = {}
        for run in runs:
            try:
                run.write()
            except (OSError, SchemenetError) as error:
                watch.ended(run, f"FAILED to start, {error}")
                continue
            given[task.options(name=run.name).remote(str(run.folder.resolve()), num_cpus, os.getcwd())] = run
        try:
            _follow(engine, given, watch)
        finally:
            for reference in given:
                engine.cancel(reference)  # runs write their checkpoints
            if given:
                engine.wait(list(given), num_returns=len(given), timeout=PATIENCE + TICK)


def attend(folder: str, threads: int, place: str) -> None:
    """The function of a Ray task: one run, by a separate process that ends with the task's.

    Args:
        folder: the run folder, an absolute path.
        threads: CPU threads of the run.
        place: the folder from which relative paths of the run are read.

    Raises:
        SchemenetError: this node does not see the run folder.
    """
    if not Path(folder, JOB).exists():
        raise SchemenetError(
            f"node {socket.gethostname()} does not see {folder}; the nodes of a Ray cluster need a file system that "
            "all of them share, with the runs on it (folder=...)"
        )
    # By SIGINT Ray cancels tasks; a cluster begun in the background of a shell script ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(Path(folder, JOB), threads, place=place)
    try:
        status = wait(process)
    finally:
        end([process])
    if status:
        read_job(Path(folder, JOB)).record_failure(describe_exit(status))


def _ray() -> ModuleType:
    # Read at import: no usage statistics are sent, and a task without GPUs keeps CUDA_VISIBLE_DEVICES.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise SchemenetError("launcher=ray needs Ray: pip install ray") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


@contextlib.contextmanager
def _connected(engine: ModuleType, address: str | None) -> Iterator[None]:
    """A connection to a cluster, without Ray's messages."""
    handler = signal.getsignal(signal.SIGTERM)
    options = {"include_dashboard": False, "configure_logging": False, "log_to_driver": False}
    try:
        # From an empty folder: the workers of Ray import from where it is begun, and there may be a `random.py`.
        with tempfile.TemporaryDirectory(prefix="schemenet-") as empty, contextlib.chdir(empty):
            engine.init(
                address=address or os.environ.get("RAY_ADDRESS") or "local",
                runtime_env={"env_vars": import_environment()},
                **options,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SchemenetError(f"launcher.address: no Ray cluster at {address or 'RAY_ADDRESS'!r}: {reason}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has replaced it by one that ends the process
    try:
        yield
    finally:
        engine.shutdown()


def _python(engine: ModuleType) -> dict[str, str]:
    """This interpreter, for workers on this machine: a shell reads its path, which may contain spaces."""
    here = all(node["NodeManagerHostname"] == socket.gethostname() for node in engine.nodes())
    return {"py_executable": shlex.join(interpreter())} if here else {}


def _follow(engine: ModuleType, given: dict[Any, Job], watch: Watch) -> None:
    """Watch tasks until all have ended, taking each out of ``given``."""
    waiting = {run: run.log_size() for run in given.values()}
    while given:
        for reference in engine.wait(list(given), timeout=TICK)[0]:
            run = given.pop(reference)
            waiting.pop(run, None)
            try:
                engine.get(reference)
            except engine.exceptions.RayError as error:
                run.record_failure(" ".join(str(getattr(error, "cause", None) or error).split()))
            watch.ended(run)
        for run in [run for run, size in waiting.items() if run.log_size() != size]:
            del waiting[run]
            watch.began(run)
        watch.look()


def _gpus_of_a_run(runs: Sequence[Job], there_are: bool) -> int:
    using = ("gpu", "cuda", "auto") if there_are else ("gpu", "cuda")
    on_gpus = [run for run in runs if run.config["trainer"]["accelerator"] in using]
    return devices_of_a_run(on_gpus) if on_gpus else 0


def _has(node: Mapping[str, Any], needed: Mapping[str, float]) -> bool:
    return node["Alive"] and all(node["Resources"].get(name, 0) >= amount for name, amount in needed.items())
