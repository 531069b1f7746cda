"""W&B runs without prompts; offline where there is no key or no server within ``WITHIN`` seconds.

Training continues when the server is lost; what was not sent stays in FOLDER/wandb, for ``wandb sync``.
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
"""Seconds after which a run begins offline; to stop W&B's process takes two more."""

ANSWER = 4.0
"""Seconds within which a server must answer a first question."""

FINISH = 10.0
"""Seconds to wait at the end of a run until its last rows are sent."""

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
    """The mode in which to log, and the reason where it is offline without the user's request."""
    requested = requested_mode(mode)
    if requested in ("offline", "disabled"):
        return requested, None
    why = _no_key() or _no_server()
    return ("online", None) if why is None else ("offline", why)


def settled(logger: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Decide and report the mode once for all runs below a folder.

    Args:
        logger: the logger's section of the config.
        folder: of the comparison or sweep.

    Returns:
        The section with its mode set.
    """
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
    """Begin a W&B run, and print its address or why it is offline.

    A run that resumes continues the curves of its id. One that was begun offline stays offline, so that ``wandb sync``
    sends all of its parts in their order.

    Args:
        folder: below which W&B writes.
        mode: of the config.
        id: of the W&B run, see :func:`run_id`.
        resumes: whether the run resumes from a checkpoint.
        patience: seconds to wait at its end until its last rows are sent.
        options: further ones of ``wandb.init``.

    Returns:
        The W&B run; None where W&B cannot be started at all.
    """
    end = time.monotonic() + WITHIN
    wandb = wandb_module()
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
            mode, why = "offline", f"cannot be used ({first_line(error)})"
    if run is None:
        try:
            run = init(mode, WITHIN)
        except Exception as error:  # W&B's own process may fail to start for any reason; training does not need it
            print(f"W&B cannot be started ({first_line(error)}): metrics are logged without it", flush=True)
            return None
    if why is not None:
        print(f"W&B {why}: logged offline; `wandb sync {folder / 'wandb'}` sends it", flush=True)
    write_json(folder / IDENTITY, {"id": id, "mode": mode})
    return run


def finish(run: Any, folder: Path, exit_code: int) -> None:
    """End a W&B run; where not all of it could be sent in time, print the command that sends the rest."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            run.finish(exit_code)
        lost = "sync" in output.getvalue()
    except TimeoutError:
        lost = True
    if lost:
        print(f"W&B has not got all of this run; `wandb sync --include-online {folder / 'wandb'}` sends it", flush=True)


def give_up(folder: Path, error: OSError) -> None:
    """W&B's process is gone: print how to send what it had, and shut down the connection to it."""
    print(
        f"W&B's process has ended ({first_line(error)}): metrics are logged without it; "
        f"`wandb sync --include-online {folder / 'wandb'}` sends what it had",
        flush=True,
    )
    with contextlib.suppress(Exception):
        release()


def release() -> None:
    """End W&B's process, which child processes would share."""
    import wandb

    wandb.teardown()


def run_id(folder: Path, key: str, resumes: bool) -> str:
    """The id of the W&B run of a folder.

    Args:
        folder: the run folder, in which the id is kept.
        key: of the recipe and the seed; a random suffix makes the same recipe, begun elsewhere or anew, another run.
        resumes: whether the run resumes from a checkpoint: it then keeps its id.
    """
    existing = _read_identity(folder).get("id", "") if resumes else ""
    return existing if str(existing).startswith(f"{key}-") else f"{key}-{secrets.token_hex(4)}"


def _read_identity(folder: Path) -> dict[str, Any]:
    """``id`` and ``mode`` of the W&B run of a folder; empty where there is none."""
    try:
        identity = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        return identity if isinstance(identity, dict) else {}
    except (OSError, ValueError):
        return {}


def wandb_module() -> Any:
    """The library, with its messages off but for those about data that it could not send."""
    # Error reports of W&B are sent at the end of a process, and wait for a server that does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if not os.environ.get("WANDB_MODE", "unset"):
        del os.environ["WANDB_MODE"]  # set to nothing: W&B would refuse that
    logging.raiseExceptions = False  # its log is in the run folder: of a full disk, one message is enough
    import wandb
    from wandb.sdk import wandb_setup

    warn_of_ignored_settings()
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
def warn_of_ignored_settings() -> None:
    for path in (Path("wandb", "settings"), Path(".wandb", "settings")):
        if path.exists():
            print(
                f"{path} is not read, whoever wrote it: logger.project, logger.entity, logger.mode, WANDB_BASE_URL and "
                "`wandb login` say where runs are sent",
                flush=True,
            )


def _no_key() -> str | None:
    """Why W&B has no key, without a prompt; None where it has one."""
    wandb = wandb_module()
    if wandb.run is not None:  # which W&B takes as answer enough
        return "run of this process is offline" if wandb.run.offline else None
    try:
        return None if wandb.login(prompt=False, verify=False) else "has no key (`wandb login` stores one)"
    except wandb.Error as error:
        return f"has no key ({first_line(error)})"


def _no_server() -> str | None:
    """Why the server cannot be used, after ``ANSWER`` seconds at most; a lookup of its name alone has no limit."""
    url = wandb_module().setup().settings.base_url
    reasons: list[str | None] = []
    request = threading.Thread(target=lambda: reasons.append(_refusal(url)), daemon=True)
    request.start()
    request.join(ANSWER)
    return reasons[0] if reasons else f"does not answer ({url})"


def _refusal(url: str) -> str | None:
    """Why a server does not take our key; None where it does."""
    import requests

    key = os.environ.get("WANDB_API_KEY")  # else requests looks into the netrc file
    try:
        answer = requests.post(
            f"{url}/graphql", json={"query": "query Viewer { viewer { id } }"}, auth=("api", key) if key else None,
            timeout=ANSWER,
        )  # fmt: skip
    except requests.exceptions.SSLError:
        return None  # a server answers; W&B uses other certificates
    except requests.RequestException:
        return f"does not answer ({url})"
    if answer.status_code in (401, 403):
        return f"does not take the key ({url} answers {answer.status_code})"
    if answer.status_code in (404, 407) or answer.status_code >= 500:
        return f"cannot be used ({url} answers {answer.status_code})"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def project(named: str | None) -> str:
    """The W&B project of runs."""
    return named or os.environ.get("WANDB_PROJECT") or "schemenet"
