"""A W&B server as far as a run needs one, on this machine: it answers wandb-core, keeps what it receives, can fail."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY = "0123456789abcdef" * 2 + "01234567"
ENTITY = "nobody"


@dataclass
class RunRecord:
    """What the server has received of one run."""

    group: str | None = None
    job_type: str | None = None
    name: str | None = None
    notes: str | None = None
    project: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(row) for row in self.rows]

    def curve(self, key: str, against: str = "trainer/global_step") -> list[tuple[float, float]]:
        return [(row[against], row[key]) for row in self.history if key in row]

    @property
    def metrics(self) -> dict[str, str]:
        """Each defined metric with the metric that it is drawn against."""
        defined = self.config.get("_wandb", {}).get("m", [])
        names = [entry.get("1") or entry.get("2") for entry in defined]
        return {n: names[e["5"] - 1] if "5" in e else e.get("4") for n, e in zip(names, defined, strict=True)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that is gone is no news."""


class Stub:
    """``state``: "well", "fails" (status 500), "refuses" (status 401), "hangs" (takes requests, answers none), "dead".

    ``hangs_at`` names a request that is not answered while others are.
    """

    def __init__(self) -> None:
        self.state: Literal["well", "fails", "refuses", "hangs", "dead"] = "well"
        self.hangs_at = ""
        self.runs: dict[str, RunRecord] = {}
        self.requests: list[str] = []
        self.released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def run(self, name: str) -> RunRecord:
        return self.runs.setdefault(name, RunRecord())

    def close(self) -> None:
        """Answer nobody from now on; new connections are refused, old ones are cut."""
        self.state = "dead"
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "UpsertBucket":
                return self._upsert(variables)
            case "RunResumeStatus":
                return {"model": self._resumed(variables["name"])}
            case "Viewer":
                return {
                    "viewer": {"id": "v", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}
                }
            case "CreateRunFiles":
                self.run(variables["run"]).files |= set(variables["files"])
                files = [
                    {"name": n, "uploadUrl": f"{self.url}/put/{urllib.parse.quote(n)}"} for n in variables["files"]
                ]
                return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                about = variables["input"]
                self.run(about["runName"]).artifacts.append(about)
                latest = {"artifactSequence": {"latestArtifact": None}}
                return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", **latest}}}
            case "ArtifactType":
                return {"project": None}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "MarkRunFilesUploaded":
                return {"markRunFilesUploaded": {"success": True}}
            case _:
                return {}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        inserted = variables["name"] not in self.runs
        run = self.run(variables["name"])
        for key, sent in (
            ("group", "groupName"),
            ("job_type", "jobType"),
            ("name", "displayName"),
            ("project",) * 2,
            ("notes",) * 2,
        ):
            if variables.get(sent):
                setattr(run, key, variables[sent])
        run.tags = variables.get("tags") or run.tags
        if variables.get("config"):
            run.config = {key: entry["value"] for key, entry in json.loads(variables["config"]).items()}
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {"id": variables["name"], "name": variables["name"], "displayName": run.name, "sweepName": None}
        bucket |= {"project": project, "historyLineCount": len(run.rows), "config": variables.get("config")}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _resumed(self, name: str) -> dict[str, Any]:
        if name not in self.runs:
            return {"id": "p", "name": "p", "entity": {"id": "e", "name": ENTITY}, "bucket": None}
        run = self.runs[name]
        wrapped = {key: {"value": value} for key, value in run.config.items()}
        bucket = {"id": name, "name": name, "displayName": run.name, "tags": run.tags, "notes": None}
        bucket |= {"summaryMetrics": json.dumps(run.summary), "config": json.dumps(wrapped), "logLineCount": 0}
        bucket |= {"historyLineCount": len(run.rows), "historyTail": json.dumps(run.rows[-1:]), "eventsTail": "[]"}
        bucket |= {"eventsLineCount": 0, "wandbConfig": json.dumps({"t": 1})}
        return {"id": "p", "name": "p", "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}

    def stream(self, name: str, body: dict[str, Any]) -> None:
        run = self.run(name)
        for kind, part in (body.get("files") or {}).items():
            if kind == "wandb-history.jsonl":
                run.rows[part["offset"] :] = part["content"]
            elif kind == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
        run.complete |= bool(body.get("complete"))
        run.exit_code = body.get("exitcode", run.exit_code)


class _Handler(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            operation = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
            name = operation[1] if operation else ""
            self._reply(lambda: {"data": self.stub.answer(name, body.get("variables") or {})}, name)
        elif (stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)) is not None:
            self._reply(lambda: self.stub.stream(stream[1], body) or {}, "file_stream")
        else:
            self._reply({})

    def _body(self) -> Any:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            return json.loads(raw)
        except ValueError:
            return {}

    def _reply(self, answer: Any, name: str = "") -> None:
        stub = self.stub
        stub.requests.append(name or f"{self.command} {self.path}")
        if stub.state == "hangs" or name == stub.hangs_at != "":
            stub.released.wait()
        if stub.state == "dead":
            self.close_connection = True
            return
        status = {"well": 200, "fails": 500, "refuses": 401}[stub.state]
        body = json.dumps((answer() if callable(answer) else answer) if status == 200 else {"errors": []}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the screen."""


@contextlib.contextmanager
def serving() -> Iterator[Stub]:
    stub = Stub()
    try:
        yield stub
    finally:
        stub.close()
