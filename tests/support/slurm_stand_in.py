"""Slurm's commands as far as submitit and a job use them, on this machine: each job is a session of processes.

Called as ``python slurm_stand_in.py COMMAND ARGUMENTS...``; what it knows is in the folder $STAND_IN_FOR_SLURM.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ.get("STAND_IN_FOR_SLURM", ""))


def install(folder: Path) -> None:
    """Programs named as Slurm's."""
    folder.mkdir()
    for name in ("sbatch", "srun", "squeue", "scontrol"):
        program = folder / name
        words = shlex.join([sys.executable, __file__, name])
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        program.chmod(0o755)


def sbatch(script: str) -> None:
    text = Path(script).read_text(encoding="utf-8")
    number = 100 + len(list(STATE.glob("*.sh")))
    shutil.copy(script, STATE / f"{number}.sh")
    array = re.search(r"--array=0-(\d+)", text)
    names = [f"{number}_{index}" for index in range(int(array[1]) + 1)] if array else [f"{number}"]
    for name in names:
        (STATE / f"queued.{name}").touch()
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen([sys.executable, __file__, "job", name], start_new_session=True, **quiet)
    print(f"Submitted batch job {number}")


def job(name: str) -> None:
    number, *index = name.split("_")
    variables = {
        "JOB_ID": number, "JOB_NAME": "schemenet", "JOB_NUM_NODES": "1", "JOB_NODELIST": socket.gethostname(),
        "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0",
    }  # fmt: skip
    variables |= {"ARRAY_JOB_ID": number, "ARRAY_TASK_ID": index[0]} if index else {}
    environment = os.environ | {f"SLURM_{key}": value for key, value in variables.items()}
    again = STATE / f"requeued.{name}"
    try:
        while True:
            subprocess.run(["bash", STATE / f"{number}.sh"], env=environment)
            if not again.exists():
                break
            again.unlink()
    finally:
        (STATE / f"queued.{name}").unlink()


def srun(*arguments: str) -> None:
    words = list(arguments)
    places = {"%A": "SLURM_JOB_ID", "%j": "SLURM_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%t": "SLURM_PROCID"}
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            path = words.pop(0)
            for short, variable in places.items():
                path = path.replace(short, os.environ.get(variable, ""))
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1 if option == "--output" else 2)
    os.execvp(words[0], words)


def squeue(*_: str) -> None:
    if (STATE / "broken").exists():
        sys.exit("slurm_load_jobs error")
    for path in STATE.glob("queued.*"):
        print(path.suffix[1:])


def scontrol(_: str, name: str) -> None:
    (STATE / f"requeued.{name}").touch()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
