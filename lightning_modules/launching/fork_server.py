"""Begins the runs on this machine from one process that has imported PyTorch and Lightning, which takes seconds.

That process has no thread and no CUDA context, and does nothing but wait, fork, and say which runs have ended. A
forked run has a session, a log and a leash like one with an interpreter of its own (``subprocesses.start``). Should the
process be killed, the runs go on.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning_modules.launching.job import run_file
from lightning_modules.launching.subprocesses import (
    TICK,
    RunProcess,
    begin_log,
    environment,
    module_command,
    run_command,
    start,
)
from lightning_modules.storage.run_files import LOG
from schemes.errors import SchemenetError

Starter = Callable[[Path, str | None], RunProcess]
"""Begins the run of a job file on the devices that are the value of CUDA_VISIBLE_DEVICES; None leaves it."""

LOST = 255
"""Exit status of a run whose own one died with the fork server."""

MESSAGE = 1 << 16
"""Bytes that are read at once."""


@contextlib.contextmanager
def starter(threads: int) -> Iterator[Starter]:
    """What begins runs on this machine: a fork server on Linux; elsewhere each run gets an interpreter.

    macOS has libraries that do not bear a fork, and Windows has none.

    Args:
        threads: CPU threads of each run.
    """
    if sys.platform != "linux":
        yield lambda file, devices: start(file, threads, devices=devices)
        return
    with ForkServer(threads) as server:
        yield server.start


class ForkedRun:
    """The process of a run that a fork server has begun; it has what launchers use of ``subprocess.Popen``.

    Attributes:
        pid: of the process, which leads a session and a process group.
        returncode: its exit status, or minus the signal that killed it; None while it runs.
        stdin: the leash: closing it ends the run, as the death of this process does.
    """

    def __init__(self, server: ForkServer, pid: int, leash: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = os.fdopen(leash, "wb")
        self._server = server

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.status(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        latest = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if latest is not None and time.monotonic() >= latest:
                raise subprocess.TimeoutExpired(f"run {self.pid}", timeout or 0.0)
            time.sleep(TICK / 4)
        return status

    def terminate(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


class ForkServer:
    """This process's side of a fork server, which is begun with the first run, and anew where it was killed.

    Args:
        threads: CPU threads of each run.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._unread = b""
        self._statuses = dict[int, int]()
        self._running, self._orphans = set[int](), set[int]()  # the latter of a server that has ended
        self._output = tempfile.TemporaryFile()  # noqa: SIM115

    def start(self, file: Path, devices: str | None) -> ForkedRun:
        """Begin the run of a job file; its output is appended to the log in its folder.

        Args:
            file: the job file.
            devices: the value of CUDA_VISIBLE_DEVICES; None leaves it.

        Raises:
            OSError: the log cannot be written.
            SchemenetError: the fork server cannot be begun.
        """
        request = json.dumps({"file": str(file), "devices": devices}).encode() + b"\n"
        with begin_log(file.parent / LOG, run_command(file)) as log:
            leash, ours = os.pipe()
            try:
                answer = self._answer_to(request, [leash, log.fileno()])
            except BaseException:
                os.close(ours)
                raise
            finally:
                os.close(leash)
        self._running.add(answer["pid"])
        return ForkedRun(self, answer["pid"], ours)

    def status(self, pid: int) -> int | None:
        """The exit status of a run; None while it runs."""
        self._read(wait=False)
        if pid in self._statuses:
            return self._statuses.pop(pid)
        return LOST if pid in self._orphans and not _exists(pid) else None

    def close(self) -> None:
        """End the server; runs of it go on until their leashes are closed."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._server is not None:
            self._server.wait()
            self._server = None

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._output.close()

    def _answer_to(self, request: bytes, descriptors: list[int]) -> dict[str, Any]:
        """The server's answer to a request; a server that has died is begun anew, once."""
        for _ in range(2):
            connection = self._socket or self._begin()
            with contextlib.suppress(OSError):
                socket.send_fds(connection, [request], descriptors)
                while self._socket is not None:
                    if (answer := self._read(wait=True)) is not None:
                        return answer
            self.close()
        self._output.seek(0)
        reason = self._output.read().decode(errors="replace").strip().splitlines()
        raise SchemenetError(f"the process that begins runs has ended{': ' + reason[-1] if reason else ''}")

    def _begin(self) -> socket.socket:
        self._socket, theirs = socket.socketpair()
        self._unread = b""
        with theirs:
            self._server = subprocess.Popen(
                module_command("lightning_modules", "fork-server"), stdin=theirs.fileno(), stdout=self._output,
                stderr=subprocess.STDOUT, start_new_session=True,
                env=environment(self.threads) | {"OPENBLAS_NUM_THREADS": "1"},  # numpy's would have threads
            )  # fmt: skip
        return self._socket

    def _read(self, *, wait: bool) -> dict[str, Any] | None:
        """Take in what the server has said; returns the answer to a request, if there is one."""
        answer = None
        while self._socket is not None and select.select([self._socket], [], [], None if wait else 0)[0]:
            try:
                received = self._socket.recv(MESSAGE)
            except OSError:
                received = b""
            if not received:
                self._socket.close()
                self._socket = None
                self._orphans |= self._running
                self._running.clear()
            *lines, self._unread = (self._unread + received).split(b"\n")
            for message in map(json.loads, lines):
                if "status" in message:
                    self._statuses[message["pid"]] = message["status"]
                    self._running.discard(message["pid"])
                else:
                    answer, wait = message, False
        return answer


def serve() -> int:
    """The fork server: for each request on the socket that is standard input, fork a process that does a run.

    Returns:
        In the server 0 when the socket is closed; in a forked process the exit status of its run.
    """
    import_what_runs_need()
    gc.collect()
    gc.freeze()  # what is shared stays shared: the collector writes to what it looks at
    connection = socket.socket(fileno=os.dup(0))
    unread, descriptors, running = b"", list[int](), set[int]()
    while True:
        if select.select([connection], [], [], TICK / 4)[0]:
            received, passed, *_ = socket.recv_fds(connection, MESSAGE, 2)
            if not received:
                return 0
            unread, descriptors = unread + received, [*descriptors, *passed]
            if unread.endswith(b"\n"):
                request, unread = json.loads(unread), b""
                if (pid := os.fork()) == 0:
                    os.setsid()
                    _say(connection, {"pid": os.getpid()})  # from now on it leads what may be killed
                    connection.close()
                    return _run(request, *descriptors)
                running.add(pid)
                for descriptor in descriptors:
                    os.close(descriptor)
                descriptors = []
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                _say(connection, {"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def import_what_runs_need() -> None:
    """Import it in a process that has no thread and no CUDA context, and begins none."""
    import sklearn.datasets
    import sklearn.model_selection  # noqa: F401
    import torchvision.datasets  # noqa: F401

    from lightning_modules.config.static_registry import REGISTRIES, static_registry
    from lightning_modules.training import run  # noqa: F401

    for group, (_, registry) in REGISTRIES.items():
        len(registry)
        static_registry(group)


def _run(request: dict[str, Any], leash: int, log: int) -> int:
    """Do a run in this process, which was forked for it."""
    for descriptor, place in ((leash, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    os.close(leash)
    os.close(log)
    if request["devices"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = request["devices"]
    words = ["run-file", "--leash", request["file"]]
    sys.argv[1:] = words
    try:
        return run_file(words[1:])
    finally:
        gc.unfreeze()  # libraries report what the collector has not taken at the end as leaks


def _say(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the other side has ended, which is seen at the next look
        connection.sendall(json.dumps(message).encode() + b"\n")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
