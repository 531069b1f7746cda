"""Starts the processes of one run on several devices of this machine, and ends them together.

Lightning's launcher runs the user's whole command again in each process, ends a run without a message when one of its
processes has died, and leaves the others running where the first is killed. Here a process that does not train begins
one for each device, which joins the others by Lightning's environment variables, and waits for them. Across machines
torchrun or srun begin them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.launching.parent_death import exit_with_parent
from lightning_modules.launching.subprocesses import import_environment, module_command
from lightning_modules.storage.atomic_files import read_json
from lightning_modules.storage.run_files import RESULT
from schemes.errors import SchemenetError
from schemes.plugins import import_modules

if TYPE_CHECKING:
    from lightning_modules.config.resolved import ResolvedConfig

RANK = "rank"  # the command of these processes
TICK = 0.1  # seconds between two looks
STOPPED = 3
"""Exit status of a process that has ended the run alone and has written its result."""


class RankError(SchemenetError):
    """A process of a run has failed."""


def launch(arguments: Mapping[str, Any], processes: int) -> None:
    """Do a run by several processes; its result is in its folder.

    Args:
        arguments: those of ``train_rank``, as plain data.
        processes: how many to begin, one for each device.

    Raises:
        RankError: with the reason of the first process that failed, when all have ended.
    """
    ranks: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="schemenet-") as place:
        shared = Path(place)
        (shared / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
        try:
            for environment in _environments(processes):
                command = module_command("lightning_modules", RANK, place)
                ranks.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True))
            while None in (statuses := [process.poll() for process in ranks]) and not any(statuses):
                time.sleep(TICK)
        finally:
            _end(ranks)
        if any(statuses) and STOPPED not in statuses:
            raise RankError(_first_failure(shared, statuses))


def serve(place: Path) -> int:
    """Do the part of one process of a run, and end the process where that fails.

    Args:
        place: the folder with the arguments; the reason of a failure is written there.

    Returns:
        The exit status.
    """
    if status := _serve(place):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)  # threads that communicate would abort the end of the interpreter, or keep it waiting
    return status


def _serve(place: Path) -> int:
    exit_with_parent(sys.stdin.fileno(), patience=0.0)
    arguments = json.loads((place / "arguments.json").read_text(encoding="utf-8"))
    from lightning_modules.config.resolved import ResolvedConfig
    from lightning_modules.training.run import train_rank

    try:
        config, folder = ResolvedConfig(arguments.pop("config")), Path(arguments.pop("folder"))
        import_modules(config.get("imports", ()))
        result = train_rank(config, folder, **arguments)
    except SchemenetError as error:
        reason = str(error)
    except Exception:
        reason = traceback.format_exc().strip()
    else:
        return STOPPED if "reason" in result else 0
    (place / os.environ["LOCAL_RANK"]).write_text(reason, encoding="utf-8")
    return 1


def _environments(processes: int) -> list[dict[str, str]]:
    import torch
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    group = LightningEnvironment()
    common = os.environ | import_environment() | {
        "MASTER_ADDR": group.main_address,
        "MASTER_PORT": str(group.main_port),
        "NODE_RANK": str(group.node_rank()),
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes)),
    }  # fmt: skip
    first = group.node_rank() * processes
    return [common | {"LOCAL_RANK": f"{local}", "RANK": f"{first + local}"} for local in range(processes)]


def _first_failure(shared: Path, statuses: Sequence[int | None]) -> str:
    """The reason of the process that failed first; later ones fail because it is gone."""
    reasons = {rank: shared / str(rank) for rank, status in enumerate(statuses) if status}
    for rank, status in enumerate(statuses):
        if status is not None and status < 0:
            death = f"rank {rank} was killed by {signal.Signals(-status).name}"
            return f"{death}; the same command resumes from the last checkpoint"
    left = [rank for rank, file in reasons.items() if file.exists()]
    if not left:
        rank = next(iter(reasons))
        return f"rank {rank} ended with exit status {statuses[rank]}"
    first = min(left, key=lambda rank: reasons[rank].stat().st_mtime_ns)
    return f"rank {first}: {reasons[first].read_text(encoding='utf-8')}"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill what still runs: a process that waits for another does not handle SIGTERM."""
    for process in processes:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def train(
    config: ResolvedConfig,
    folder: Path,
    *,
    name: str | None = None,
    group: str | None = None,
    arm: str | None = None,
    ledger: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Train one network; everything is written into ``folder``.

    An unfinished run of the same recipe and seed resumes from its checkpoint, of a finished one the result is returned;
    ``overwrite`` begins anew. A solve that fails ends the run with its reason, as ``diverged``, or as ``failed`` where
    a limit on steps or seconds was reached: such a run is unfinished. On several devices of this machine one process
    for each is begun here.

    Args:
        config: a checked config.
        folder: the run folder.
        name: of the run, for its result; null: made of its recipe and seed.
        group: of the run, for loggers.
        arm: the name of the network in a comparison.
        ledger: the costs of its network with this batch size, where they are known; null: the run counts them.

    Returns:
        The content of ``result.json``.

    Raises:
        SchemenetError: the folder holds another run, or the run cannot be done.
    """
    from lightning_modules.training.run import train_rank
    from lightning_modules.training.run_folder import find_same_run
    from lightning_modules.training.trainers import processes_to_begin

    if (existing := find_same_run(config, folder)) is not None and existing.finished:
        return read_json(folder / RESULT)
    if (processes := processes_to_begin(config["trainer"])) == 1:
        return train_rank(config, folder, name=name, group=group, arm=arm, ledger=ledger)
    about = {"name": name, "group": group, "arm": arm, "ledger": ledger}
    launch({"config": dict(config), "folder": str(folder), **about}, processes)
    return read_json(folder / RESULT)
