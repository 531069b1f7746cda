"""Launcher for Slurm, by submitit: one array of jobs, which are requeued when their time is up."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from lightning_modules.config.registries import LAUNCHERS
from lightning_modules.launching.job import Job, devices_of_a_run, read_job
from lightning_modules.launching.progress import Watch
from lightning_modules.launching.run_lock import is_locked
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
from lightning_modules.storage.atomic_files import read_json, remove_empty, write_json
from lightning_modules.storage.run_files import JOB, LOG, SLURM_JOB
from schemes.errors import SchemenetError

LOOK_PERIOD = {"slurm": 2.0, "local": TICK}  # seconds between two looks at the folders of runs
QUERY_PERIOD = {"slurm": 20.0, "local": 0.5}  # seconds between two questions after the jobs that are left
WARNING = 120  # seconds between the warning that time is up and the end of a job
START = 120  # seconds until a run trains, and for Slurm's clock, which may warn a minute early
SHORTEST = (WARNING + START) // 60
"""Minutes below which a job would be warned before its run does anything, and requeued in vain."""


@LAUNCHERS.register("slurm")
def slurm(
    runs: Sequence[Job],
    watch: Watch,
    *,
    cluster: Literal["slurm", "local"] = "slurm",
    partition: str | None = None,
    qos: str | None = None,
    account: str | None = None,
    constraint: str | None = None,
    gres: str | None = None,
    gpus_per_node: int | None = None,
    cpus_per_task: int = 4,
    mem_gb: float | None = None,
    nodes: int | None = None,
    tasks_per_node: int | None = None,
    timeout_min: int = 240,
    max_num_timeout: int = 20,
    array_parallelism: int = 256,
    setup: Sequence[str] | None = None,
    additional_parameters: Mapping | None = None,
) -> None:
    """One array of jobs, a run in each; parameters are those of submitit and sbatch.

    Jobs outlive the command: after Ctrl-C they continue, and the same command watches them again instead of submitting
    what is queued or runs. Those of ``cluster`` local end with it.

    Args:
        runs: the jobs to do.
        watch: the display of their progress.
        cluster: ``local`` has submitit begin all jobs at once on this machine, for trials.
        partition: of sbatch.
        qos: of sbatch.
        account: of sbatch.
        constraint: of sbatch.
        gres: of sbatch.
        gpus_per_node: null: trainer.devices where trainer.accelerator is gpu or cuda.
        cpus_per_task: CPU cores, and threads of a run.
        mem_gb: memory of a job.
        nodes: null: trainer.num_nodes.
        tasks_per_node: null: one, which begins the processes of several devices itself; trainer.devices on several
            nodes.
        timeout_min: minutes after which the run of a job writes a checkpoint and the job is requeued, as when it is
            preempted.
        max_num_timeout: how often a job is requeued after its time was up.
        array_parallelism: jobs that run at once.
        setup: shell lines that are run before the job, as in ``['module load cuda']``.
        additional_parameters: of sbatch, by their names.

    Raises:
        SchemenetError: submitit or Slurm is missing, a parameter is out of range, or Slurm refuses the jobs.
    """
    submitit = _submitit()
    if cluster == "slurm" and (missing := [name for name in ("sbatch", "squeue") if shutil.which(name) is None]):
        raise SchemenetError(
            f"launcher=slurm: no {missing[0]!r} here; give the command on a login node of the cluster, or use "
            "launcher=local; launcher.cluster=local tries the jobs on this machine"
        )
    _check_at_least_one(cpus_per_task=cpus_per_task, array_parallelism=array_parallelism)
    if timeout_min < SHORTEST:
        raise SchemenetError(
            f"launcher.timeout_min: expected at least {SHORTEST}, got {timeout_min}: a job is warned {WARNING} seconds "
            "before its time is up, to write a checkpoint, and a run takes about as long to begin"
        )
    machines: int = nodes or max((run.config["trainer"].get("num_nodes", 1) for run in runs), default=1)
    on_gpus = any(run.config["trainer"]["accelerator"] in ("gpu", "cuda") for run in runs)
    if gpus_per_node is None and gres is None and on_gpus:
        gpus_per_node = devices_of_a_run(runs)
    if tasks_per_node is None:
        tasks_per_node = devices_of_a_run(runs) if machines > 1 else 1
    resources = {
        "name": f"schemenet-{runs[0].group}" if runs else "schemenet",
        "timeout_min": timeout_min,
        "cpus_per_task": cpus_per_task,
        "nodes": machines,
        "tasks_per_node": tasks_per_node,
        "gpus_per_node": gpus_per_node,
        "mem_gb": mem_gb,
        "slurm_partition": partition,
        "slurm_qos": qos,
        "slurm_account": account,
        "slurm_constraint": constraint,
        "slurm_gres": gres,
        "slurm_array_parallelism": array_parallelism,
        "slurm_setup": setup,
        "slurm_additional_parameters": additional_parameters,
        "slurm_signal_delay_s": WARNING,
    }
    by_folder = {run.folder: run for run in runs}
    jobs = {by_folder[folder]: job for folder, job in unfinished_jobs(by_folder).items()}
    if jobs:
        watch.console.print(f"{_runs(jobs)} queued or running as {_names_of(jobs.values())}; watching")
    new = [run for run in runs if run not in jobs]
    if new:
        submitted = _submit(submitit, new, cluster, max_num_timeout, cpus_per_task, resources)
        jobs |= submitted
        names = _names_of(submitted.values())
        watch.console.print(f"submitted {_runs(submitted)} as {names}; logs in {submitted[new[0]].folder}")
    try:
        follow(jobs, watch)
    except KeyboardInterrupt:
        _print_remaining(jobs, watch)
        raise
    finally:
        _end_local(jobs)


class NoAnswer(SchemenetError):
    """Slurm does not answer what is queued: its controller is busy or restarts."""


@dataclass(frozen=True)
class SlurmJob:
    """The Slurm job of a run.

    Attributes:
        id: submitit's name of the job, as 17_3 in an array.
        folder: of submitit's files.
        cluster: ``slurm`` or ``local``.
    """

    id: str
    folder: str
    cluster: str

    @staticmethod
    def of(folder: Path) -> SlurmJob | None:
        """The job as which a run was last submitted; None where there is none."""
        try:
            job = SlurmJob(**read_json(folder / SLURM_JOB))
        except (SchemenetError, TypeError):
            return None
        return job if job.cluster in LOOK_PERIOD else None

    @staticmethod
    def left(jobs: Iterable[SlurmJob]) -> set[SlurmJob]:
        """Those of the jobs that are queued or running. Raises NoAnswer where Slurm does not answer."""
        listings = {"slurm": _queued, "local": _alive}
        jobs = list(jobs)
        ids = {
            cluster: list_ids([job for job in jobs if job.cluster == cluster]) for cluster, list_ids in listings.items()
        }
        return {job for job in jobs if job.id in ids[job.cluster]}


def unfinished_jobs(folders: Iterable[Path]) -> dict[Path, SlurmJob]:
    """The queued or running jobs of run folders. Raises NoAnswer where Slurm does not answer."""
    submitted = {folder: job for folder in folders if (job := SlurmJob.of(folder)) is not None}
    left = SlurmJob.left(submitted.values())
    return {folder: job for folder, job in submitted.items() if job in left}


def refuse_unfinished(folders: Iterable[Path]) -> None:
    """Refuse to overwrite runs that are queued or running: their jobs would train what they were submitted as."""
    try:
        jobs = unfinished_jobs(folders)
    except NoAnswer as error:
        raise SchemenetError(
            f"overwrite: {error}, and its jobs may be there still; try again later, or choose another folder=..."
        ) from error
    if jobs:
        end = "scancel" if any(job.cluster == "slurm" for job in jobs.values()) else "kill"
        raise SchemenetError(
            f"overwrite: {_runs(jobs)} queued or running as {_names_of(jobs.values())} would train what they were "
            f"submitted as; `{end} {' '.join(_arrays(jobs.values()))}` ends them, then give the command again"
        )


class Task:
    """The function of a job: one run, by a separate process. submitit pickles it, and calls it again when requeued."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __call__(self, folder: str) -> None:
        from submitit.core.utils import UncompletedJobError

        run = read_job(Path(folder, JOB))
        rank = os.environ.get("SLURM_PROCID", "0")
        with _unheard(self._warning()):
            self.process = start(run.folder / JOB, self.threads, log=LOG if rank == "0" else f"log_rank{rank}.txt")
        try:
            status = wait(self.process)
            if status in (130, -signal.SIGTERM):
                # Stopped, and not by this process: Slurm signals all of a job when it preempts or cancels it. What
                # follows is for Slurm to say, which would take a job that ends by itself for finished.
                time.sleep(PATIENCE)
        except UncompletedJobError as error:  # raised by submitit in place of requeueing once more
            run.record_failure(str(error))
            raise
        finally:
            end([self.process])
        if status and not run.done:
            run.record_failure(describe_exit(status))
            raise RuntimeError(run.outcome())

    def checkpoint(self, folder: str) -> Any:
        """Called upon the warning that time is up: the run writes a checkpoint and ends; the job is then requeued."""
        from submitit.helpers import DelayedSubmission

        end([self.process])
        return DelayedSubmission(Task(self.threads), folder)

    @staticmethod
    def _warning() -> signal.Signals:
        from submitit import JobEnvironment

        return JobEnvironment._usr_sig()


def _submitit() -> ModuleType:
    try:
        import submitit
    except ImportError as error:
        raise SchemenetError("launcher=slurm needs submitit: pip install submitit") from error
    logging.getLogger("submitit").setLevel(logging.ERROR)
    return submitit


def _submit(
    submitit: ModuleType,
    runs: Sequence[Job],
    cluster: str,
    max_num_timeout: int,
    threads: int,
    resources: Mapping[str, Any],
) -> dict[Job, SlurmJob]:
    """Submit all runs as one array, and write the job of each into its folder."""
    folder = Path(os.path.commonpath([run.folder.resolve().parent for run in runs]), "submitit")
    existing = set(folder.glob("*"))
    first = [run for run in runs if not (run.folder / JOB).exists()]
    for run in runs:
        run.write()
    known = _user_settings() | import_environment()
    try:
        with submitit.helpers.clean_env(), submitit.core.utils.environment_variables(**known):
            options = {"max_num_timeout": max_num_timeout, "python": shlex.join(interpreter())}
            executor = submitit.AutoExecutor(folder, cluster, **{f"{cluster}_{key}": options[key] for key in options})
            executor.update_parameters(**{key: value for key, value in resources.items() if value is not None})
            submitted = executor.map_array(Task(threads), [str(run.folder.resolve()) for run in runs])
    except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedSubmissionError, ValueError) as error:
        for run in first:
            run.withdraw()
        for file in set(folder.glob("*")) - existing:
            file.unlink(missing_ok=True)
        remove_empty(folder, folder.parent)
        raise SchemenetError(f"launcher=slurm: the jobs were refused: {str(error).strip()}") from error
    jobs = {run: SlurmJob(job.job_id, str(folder), cluster) for run, job in zip(runs, submitted, strict=True)}
    for run, job in jobs.items():
        write_json(run.folder / SLURM_JOB, asdict(job))
    return jobs


def _user_settings() -> dict[str, str]:
    """The variables of Slurm that are the user's settings; others describe the job that this process is part of."""
    names = ("SLURM_CONF", "SUBMITIT_PREEMPT_SIGNAL")
    return {name: value for name, value in os.environ.items() if name in names or name.startswith("SBATCH_")}


def follow(jobs: Mapping[Job, SlurmJob], watch: Watch) -> None:
    """Watch jobs until all have ended; the result of each run is in its folder."""
    waiting, running = dict(jobs), dict(jobs)
    sizes = {run: run.log_size() for run in jobs}
    gone: set[Job] = set()
    last_query, answered = time.monotonic(), True
    while running:
        for run in [run for run in waiting if run.log_size() != sizes[run] or run.progress()]:
            del waiting[run]
            watch.began(run)
        if time.monotonic() - last_query > min(QUERY_PERIOD[job.cluster] for job in running.values()):
            try:
                left = SlurmJob.left(running.values())
            except NoAnswer as error:
                if answered:
                    watch.console.print(f"{error}; the jobs continue, and the query is repeated", markup=False)
                left, answered = set(running.values()), False
            else:
                answered = True
            missed = {run for run, job in running.items() if job not in left}
            # Twice: another machine's file system may show late what the run has written last.
            for run in missed & gone:
                run.record_failure(f"its job {running[run].id} has ended")
            gone, last_query = missed, time.monotonic()
        for run in [run for run in running if run.finished]:
            del running[run]
            waiting.pop(run, None)
            watch.ended(run)
        watch.look()
        time.sleep(min((LOOK_PERIOD[job.cluster] for job in running.values()), default=0.0))


def _print_remaining(jobs: Mapping[Job, SlurmJob], watch: Watch) -> None:
    on_slurm = [job for run, job in jobs.items() if job.cluster == "slurm" and not run.finished]
    if on_slurm:
        watch.console.print(
            f"{_runs(on_slurm)} continue as {_names_of(on_slurm)}: the same command watches again, "
            f"`scancel {' '.join(_arrays(on_slurm))}` ends it"
        )


def _queued(jobs: Collection[SlurmJob]) -> set[str]:
    """The ids among those of Slurm jobs that are in its queue, waiting or running."""
    if not jobs:
        return set()
    command = ["squeue", "--noheader", "--me", "--array", "--format=%i"]  # one line for each job, of an array as 17_3
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        raise NoAnswer(f"Slurm does not say what is queued ({reason})") from error
    return set(answer.stdout.split())


def _alive(jobs: Collection[SlurmJob]) -> set[str]:
    """The ids among those of submitit's local jobs, which are process numbers, that are there still."""
    if not jobs:
        return set()
    command = ["ps", "-o", "pid=,args=", "-p", ",".join(job.id for job in jobs)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return {line.split()[0] for line in answer.splitlines() if "submitit.local" in line}


def _end_local(jobs: Mapping[Job, SlurmJob]) -> None:
    """End local jobs that are left, and wait until their runs have written their checkpoints."""
    local = {run: job for run, job in jobs.items() if job.cluster == "local"}
    for id in _alive([job for run, job in local.items() if not run.finished]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(id), signal.SIGINT)
    latest = time.monotonic() + 2 * PATIENCE
    while (_alive(local.values()) or any(is_locked(run.folder) for run in local)) and time.monotonic() < latest:
        time.sleep(TICK)


@contextlib.contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Block a signal in new processes: Slurm sends its warning to all of a job, and it is for the first alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})  # which a process inherits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_at_least_one(**options: int) -> None:
    wrong = [f"launcher.{key}: expected at least 1, got {value}" for key, value in options.items() if value < 1]
    if wrong:
        raise SchemenetError("\n".join(wrong))


def _arrays(jobs: Iterable[SlurmJob]) -> list[str]:
    """SlurmJob numbers, an array's once."""
    return sorted({job.id.split("_")[0] for job in jobs})


def _runs(counted: Collection[Any]) -> str:
    return f"{len(counted)} run{'s' if len(counted) != 1 else ''}"


def _names_of(jobs: Iterable[SlurmJob]) -> str:
    jobs = list(jobs)
    kind = "Slurm job" if jobs[0].cluster == "slurm" else "local job"
    numbers = _arrays(jobs)
    return f"{kind}{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
