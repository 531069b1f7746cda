"""Runs of Weights & Biases that ask nobody and wait for nobody.

Online where there is a key and a server that takes it, else offline, decided within ``WITHIN`` seconds. A run that has
lost its server goes on; what was not sent stays in FOLDER/wandb, from where ``wandb sync`` brings it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from lightning_modules.storage.atomic_files import write_json
from schemes.errors import SchemenetError

Mode = Literal["offline", "online", "disabled"]

WITHIN = 11.0
"""Seconds after which a run begins offline; to stop W&B's own process takes two more."""

ANSWER = 4.0
"""Seconds within which a server must answer a first question."""

FINISH = 10.0
"""Seconds that a run which has ended waits until its last rows are sent."""

IDENTITY = "wandb.json"


def requested_mode(mode: str | None) -> Mode | None:
    """The mode of the config or of WANDB_MODE; None where neither is set."""
    modes: tuple[Mode, ...] = get_args(Mode)
    requested = mode or os.environ.get("WANDB_MODE") or ""
    requested = {"dryrun": "offline", "run": "online"}.get(requested, requested)
    if not requested or requested in modes:
        return next((known for known in modes if known == requested), None)
    raise SchemenetError(f"logger.mode or WANDB_MODE: expected {', '.join(modes)}, got {requested!r}")


def settled_mode(mode: str | None) -> tuple[Mode, str | None]:
    """The mode in which to log, and why it is offline where nobody asked for that."""
    requested = requested_mode(mode)
    if requested in ("offline", "disabled"):
        return requested, None
    why = _no_key() or _no_server()
    return ("online", None) if why is None else ("offline", why)


def settled(logger: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The logger of the runs below a folder, with the mode decided, and told, once for all of them."""
    if logger["name"] != "wandb":
        return dict(logger)
    mode, why = settled_mode(logger["mode"])
    if why is not None:
        print(f"W&B {why}: the runs are logged offline; `wandb sync {folder}/*/seed*/wandb` sends them", flush=True)
    if mode != requested_mode(logger["mode"]):
        release()
    return {**logger, "mode": mode}


def begin(
    folder: Path, *, mode: str | None, id: str, resumes: bool = False, patience: float = FINISH, **options: Any
) -> Any | None:
    """A W&B run that writes below ``folder``; None where W&B cannot be started at all. What it is, is said in a line.

    A run that goes on continues the curves of its ``id``. One that was begun offline goes on offline, so that
    ``wandb sync`` finds all of its parts and in their order.
    """
    end = time.monotonic() + WITHIN
    wandb = _wandb()
    mode, why = settled_mode("offline" if resumes and _read_identity(folder).get("mode") == "offline" else mode)

    def init(mode: Mode, within: float) -> Any:
        settings = wandb.Settings(
            silent=True, console="off", init_timeout=within, finish_timeout=patience, finish_timeout_raises=True,
            # What is neither on the disk nor at the server is lost to the curves when a run is killed.
            x_transaction_log_flush_interval=1, x_file_stream_transmit_interval=5,
        )  # fmt: skip
        overrides = {"id": id, "resume": "allow" if resumes else None}
        if "WANDB_SWEEP_ID" in os.environ:  # the agent has named the run, and its group is the sweep
            overrides = {"group": None}
        return wandb.init(dir=str(folder), mode=mode, reinit="create_new", settings=settings, **options | overrides)

    run = None
    if mode == "online":
        try:
            run = init(mode, max(2.0, end - time.monotonic()))
            print(f"W&B: {run.url}", flush=True)
        except wandb.Error as error:
            wandb.teardown()  # else the id counts as taken
            mode, why = "offline", f"cannot be used ({_first_line(error)})"
    if run is None:
        try:
            run = init(mode, WITHIN)
        except Exception as error:  # W&B's own process may fail to start for any reason; training does not need it
            print(f"W&B cannot be started ({_first_line(error)}): metrics are logged without it", flush=True)
            return None
    if why is not None:
        print(f"W&B {why}: logged offline; `wandb sync {folder / 'wandb'}` sends it", flush=True)
    write_json(folder / IDENTITY, {"id": id, "mode": mode})
    return run


def finish(run: Any, folder: Path, exit_code: int) -> None:
    """End a run; where not all of it could be sent in time, say how to send the rest."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            run.finish(exit_code)
        lost = "sync" in said.getvalue()
    except TimeoutError:
        lost = True
    if lost:
        print(f"W&B has not got all of this run; `wandb sync --include-online {folder / 'wandb'}` sends it", flush=True)


def give_up(folder: Path, error: OSError) -> None:
    """W&B's own process is gone: say what is left of a run, and have nobody ask for that process again."""
    print(
        f"W&B's process has ended ({_first_line(error)}): metrics are logged without it; "
        f"`wandb sync --include-online {folder / 'wandb'}` sends what it had",
        flush=True,
    )
    with contextlib.suppress(Exception):
        release()


def release() -> None:
    """End W&B's own process, which processes begun by this one would share."""
    import wandb

    wandb.teardown()


def run_id(folder: Path, key: str, resumes: bool) -> str:
    """The id of the W&B run that a folder holds, or is about to hold.

    ``key`` tells what is run; to it comes a mark of this beginning, kept in the folder: the same recipe begun
    elsewhere, or anew, is another run.
    """
    existing = _read_identity(folder).get("id", "") if resumes else ""
    return existing if str(existing).startswith(f"{key}-") else f"{key}-{secrets.token_hex(4)}"


def _read_identity(folder: Path) -> dict[str, Any]:
    """What the folder knows of its W&B run: ``id`` and ``mode``, or nothing."""
    try:
        identity = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        return identity if isinstance(identity, dict) else {}
    except (OSError, ValueError):
        return {}


def _wandb() -> Any:
    """The library, told to keep its messages to itself; but for those about data that it could not send."""
    # What W&B reports about itself is sent at the end of a process, and waits for a server that does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if not os.environ.get("WANDB_MODE", "unset"):
        del os.environ["WANDB_MODE"]  # set to nothing: W&B would refuse that
    logging.raiseExceptions = False  # its own log lies in the run folder: of a full disk, one message is enough
    import wandb
    from wandb.sdk import wandb_setup

    _say_what_is_not_read()
    settings = wandb.Settings(show_info=False, x_disable_viewer=True, root_dir=os.getcwd())
    with elsewhere():  # files are read at the first time; a process begun here would stay here
        wandb_setup._setup(settings, start_service=False)
    wandb.setup(settings)
    return wandb


@contextlib.contextmanager
def elsewhere() -> Iterator[Path]:
    """Work in an empty folder: W&B takes the server that gets the key from ``wandb/settings`` in the current one."""
    with tempfile.TemporaryDirectory(prefix="schemenet-") as empty, contextlib.chdir(empty):
        yield Path(empty)


@cache
def _say_what_is_not_read() -> None:
    for path in (Path("wandb", "settings"), Path(".wandb", "settings")):
        if path.exists():
            print(
                f"{path} is not read, whoever wrote it: logger.project, logger.entity, logger.mode, WANDB_BASE_URL and "
                "`wandb login` say where runs are sent",
                flush=True,
            )


def _no_key() -> str | None:
    """Why W&B knows no key, without asking anybody for one."""
    wandb = _wandb()
    if wandb.run is not None:  # which W&B takes as answer enough
        return "run of this process is offline" if wandb.run.offline else None
    try:
        return None if wandb.login(prompt=False, verify=False) else "has no key (`wandb login` stores one)"
    except wandb.Error as error:
        return f"has no key ({_first_line(error)})"


def _no_server() -> str | None:
    """Why the server cannot be used, after ``ANSWER`` seconds at most; names are looked up without any limit."""
    url = _wandb().setup().settings.base_url
    reasons: list[str | None] = []
    request = threading.Thread(target=lambda: reasons.append(_refusal(url)), daemon=True)
    request.start()
    request.join(ANSWER)
    return reasons[0] if reasons else f"does not answer ({url})"


def _refusal(url: str) -> str | None:
    """What is wrong with a server, by asking it who we are."""
    import requests

    key = os.environ.get("WANDB_API_KEY")  # else requests looks into the netrc file
    try:
        answer = requests.post(
            f"{url}/graphql", json={"query": "query Viewer { viewer { id } }"}, auth=("api", key) if key else None,
            timeout=ANSWER,
        )  # fmt: skip
    except requests.exceptions.SSLError:
        return None  # somebody is there; W&B has certificates of its own
    except requests.RequestException:
        return f"does not answer ({url})"
    if answer.status_code in (401, 403):
        return f"does not take the key ({url} answers {answer.status_code})"
    if answer.status_code in (404, 407) or answer.status_code >= 500:
        return f"cannot be used ({url} answers {answer.status_code})"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def project(named: str | None) -> str:
    """The project that runs belong to."""
    return named or os.environ.get("WANDB_PROJECT") or "schemenet"
