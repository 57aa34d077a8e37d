"""A real API process, and a Redis server without workers, for tests of the API."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from plush_worker.model import RunSpec
from plush_worker.node import frames, hostset, messages
from plush_worker.store import keys
from plush_worker.store.address import Address
from plush_worker.store.light import LightStore
from plush_worker.store.segments import SegmentWriter
from plush_worker.store.server import start_server

LIMIT_S = 20.0
_CHECKOUT = Path(__file__).parents[1]


def until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """What ``condition`` returns once that is true."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.02)
    return found


class RedisServer:
    """A server on a Unix socket in ``folder`` that a test may stop and start again with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = Address(path=str(folder / "redis.sock"))
        self.url = self.address.url()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._process = start_server(self._folder, unix_socket=Path(self.address.path), appendonly=True)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(LIMIT_S)

    def store(self) -> LightStore:
        return LightStore.connect(self.url)


@dataclass
class ApiService:
    """``python -m plush_api.api_part`` with settings of its own; its log is ``api.log`` in ``folder``."""

    folder: Path
    redis_url: str
    state_dir: Path
    environ: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ("-m", "plush_api.api_part")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it says that it serves."""
        read_end, write_end = os.pipe()
        environ = {n: v for n, v in os.environ.items() if not n.startswith(("PLUSH_A", "XDG_"))}
        environ |= {
            "PYTHONPATH": str(_CHECKOUT),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "PLUSH_REDIS_URL": self.redis_url,
            "PLUSH_STATE_DIR": str(self.state_dir),
            "PLUSH_LOG_FILE": str(self.folder / "api.log"),
            "PLUSH_READY_FD": str(write_end),
            "PLUSH_API_PORT": "0",
            "PLUSH_API_ADMIN_TOKEN_FILE": str(self.folder / "admin.token"),
            **self.environ,
        }
        self.process = subprocess.Popen([sys.executable, *self.program], env=environ, pass_fds=(write_end,))
        os.close(write_end)
        with open(read_end, "rb") as ready:
            said = ready.readline().decode()
        if not said:
            self.process.wait(LIMIT_S)
            raise AssertionError(f"the API didn't start: {self.log()[-3000:]}")
        self.url = said.split()[1]
        self.admin_token = (self.folder / "admin.token").read_text().strip()

    def stop(self) -> None:
        """End it as a service manager would."""
        self.process.terminate()
        assert self.process.wait(LIMIT_S) == 0, self.log()[-3000:]

    def log(self) -> str:
        """What it has logged."""
        path = self.folder / "api.log"
        return path.read_text() if path.exists() else ""

    def client(self, token: str | None = None, **options: Any) -> httpx.Client:
        """A client below /v1 with a token; None: the admin's, "": without one."""
        token = self.admin_token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=f"{self.url}/v1", headers=headers, timeout=LIMIT_S, **options)

    def token(self, owner: str, *scopes: str, slices: Sequence[str] = ("*",), expires_s: int = 0) -> str:
        """A new token of ``owner``."""
        body = {"owner": owner, "scopes": scopes or ("run",), "slices": list(slices), "expires_s": expires_s}
        with self.client() as client:
            answer = client.post("/tokens", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def memory_bytes(self) -> int:
        """Resident memory of the process."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


DIRECTORY = """
ssh_config: false
hosts:
  node[1-4]: {address: 127.0.0.1, port: 9, accept_new: true}
  other: {address: 127.0.0.1, port: 9, accept_new: true}
slices:
  lab: {hosts: "node[1-4]"}
  attic: {hosts: "other"}
"""


def write_directory(folder: Path) -> Path:
    """A host directory of hosts that nobody connects to."""
    path = folder / "hosts.yaml"
    path.write_text(DIRECTORY)
    return path


def new_run_id() -> str:
    """As a client would make one."""
    return secrets.token_hex(16)


class FakeRun:
    """A run that no worker coordinates: its events and output are made here, as coordinator and workers make them."""

    def __init__(self, redis_url: str, state_dir: Path, owner: str = "ada", hosts: int = 2, **changes: Any) -> None:
        self._url = redis_url
        self.hosts = hosts
        self.run_id = new_run_id()
        entries = tuple({"name": f"node{n + 1}", "address": "127.0.0.1"} for n in range(hosts))
        self.spec = RunSpec(**{"run_id": self.run_id, "owner": owner, "command": "date", "hosts": entries, **changes})
        self.path = state_dir / "runs" / self.run_id / "w-1.seg"
        with LightStore.connect(redis_url) as store:
            store.submit(self.spec, "nobody")

    def append(self, *events: Mapping[str, Any]) -> str:
        """The id of the last of the events."""
        last = ""
        with LightStore.connect(self._url) as store:
            for event in events:
                last = store.append(self.run_id, event)
        return last

    def join(self) -> None:
        """The hosts have joined and are up; node1 has number 0."""
        numbers = hostset.to_text((1 << self.hosts) - 1)
        named = json.dumps([[n, f"node{n + 1}"] for n in range(self.hosts)])
        with LightStore.connect(self._url) as store:
            store._wire.call("HSET", keys.run(self.run_id), "hosts", named, "numbers", numbers, "mesh", "m")
        self.append(
            {"type": "coordinator_started", "worker": "w", "term": 1},
            {"type": "hosts_joined", "mesh": "m", "hosts": numbers},
            {"type": "subtrees_assigned", "worker": "w", "hosts": numbers, "roots": "0", "epoch": 1},
            {"type": "op_ordered", "op": 1, "kind": "exec", "hosts": numbers},
            {"type": "hosts_up", "order": 0, "hosts": numbers},
            {"type": "op_started", "op": 1, "hosts": numbers},
        )

    def print(
        self, text: bytes, *, hosts: int = 1, stream: int = messages.STDOUT, offset: int = 0, op: int = 1
    ) -> None:
        """Hosts (a host set) print ``text`` at an offset of their stream: written, synced and committed."""
        with SegmentWriter(self.path) as writer:
            for at in range(0, len(text), 32768):
                body = messages.encode_output(op, stream, offset + at, text[at : at + 32768], 0)
                writer.append(frames.encode(frames.OUTPUT, hostset.encode(hosts), body, epoch=1))
            length = writer.sync()
        with LightStore.connect(self._url) as store:
            store._wire.call("HSET", keys.run_output(self.run_id), self.path.name, length)
        self.append({"type": "output", "segment": self.path.name, "bytes": length})

    def end(self, state: str = "succeeded") -> str:
        """As the coordinator ends it; the id of the last event."""
        everyone = hostset.to_text((1 << self.hosts) - 1)
        summary = {"hosts": self.hosts, "ok": self.hosts}
        summary |= dict.fromkeys(("nonzero", "failed", "unreachable", "killed", "unknown"), 0)
        self.append(
            {"type": "op_ended", "op": 1, "hosts": everyone, "state": "exited", "code": 0, "signal": None, "detail": ""}
        )
        with LightStore.connect(self._url) as store:
            fields = ("state", state, "finished", "1763841234.5", "summary", json.dumps(summary))
            store._wire.call("HSET", keys.run(self.run_id), *fields)
        return self.append({"type": "run_finished", "state": state, "summary": summary})


def sse_events(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, event) of each message of a stream of server-sent events."""
    event_id = ""
    for line in lines:
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: ") and event_id:
            yield event_id, json.loads(line[6:])
            event_id = ""
