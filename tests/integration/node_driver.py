"""The upper end of a link in tests: starts a node program over pipes and speaks frames with it, with deadlines.

``NodeDriver`` stands where a worker stands. ``fake_ssh`` makes an ``ssh`` that runs the remote command on this machine,
so that a node program can have children without any sshd.
"""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from plush_worker.mesh.payload import build_payload
from plush_worker.node import bootstrap, frames, hostset, messages

DEADLINE_S = 15.0
REAL_PYTHON_FIRST = dict(os.environ, PATH=f"{sys.base_prefix}/bin:{os.environ['PATH']}")  # before a shim of pyenv


@dataclass
class Frame:
    """One frame that came up: ``hosts`` are numbers, ``fields`` the decoded message ({} for OUTPUT and CREDIT)."""

    kind: int
    epoch: int
    hosts: list[int]
    fields: dict[str, Any]
    body: bytes

    @property
    def name(self) -> str:
        """``READY``, ``STATE``, ..."""
        return str(frames.NAMES[self.kind])


@dataclass
class NodeDriver:
    """One node program and what it said. A context manager: at the end its stdin is closed and it is waited for."""

    command: list[str] = field(default_factory=lambda: ["sh", "-c", bootstrap.command_line()])
    env: Mapping[str, str] | None = None
    payload: bytes | None = None
    host: int = 0
    order: int = 1
    mesh: str = ""  # empty: one of its own
    beat_s: int = 5
    hold_ms: int = 20
    window: int = 1 << 20
    connect_s: int = 10
    answers_pings: bool = True
    credits: bool = True  # give credit for OUTPUT as it comes
    acks: bool = False  # say that OUTPUT is stored as it comes

    def __post_init__(self) -> None:
        self.mesh = self.mesh or "t" + secrets.token_hex(6)
        self.seen: list[Frame] = []  # all that came, in order
        self.prelude = bootstrap.Prelude()
        self._decoder = frames.Decoder()
        self.bulk_bytes = 0  # of OUTPUT, as credit counts
        self.stored: dict[tuple[int, int], list[int]] = {}  # (host, op) -> bytes of stdout, stderr
        self.ended = False  # its stdout is at its end
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=self.env or REAL_PYTHON_FIRST,
        )
        assert self.process.stdin
        assert self.process.stdout
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_stdin()
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                if stream:
                    stream.close()

    @staticmethod
    def line() -> str:
        """The command that a login shell is given."""
        return str(bootstrap.command_line())

    # Downward

    def write(self, data: bytes) -> None:
        """Raw bytes; an error is left to the reading side, where the reason is."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._in, view) :]
            except BrokenPipeError:
                return

    def start(self, **hello: Any) -> Self:
        """Payload and HELLO."""
        self.write(bootstrap.header(self.payload or build_payload()))
        values = {
            "version": 1, "mesh": self.mesh, "host": self.host, "order": self.order, "name": f"host{self.host}",
            "beat_s": self.beat_s, "hold_ms": self.hold_ms, "window": self.window, "connect_s": self.connect_s,
        }  # fmt: skip
        self.send(frames.HELLO, [], **(values | hello))
        return self

    def send(self, kind: int, hosts: Iterable[int], epoch: int = 0, **fields: Any) -> None:
        """One message to ``hosts``."""
        self.write(frames.encode(kind, hostset.encode(hostset.of(hosts)), messages.encode(kind, **fields), epoch))

    def link(self, order: int, entries: Iterable[tuple[int, int]], ssh: Iterable[str] = (), **changes: Any) -> None:
        """LINK for (number, parent) pairs at addresses ``host<number>``; ``changes`` of the other entry fields."""
        values = {"address": None, "port": 22, "user": "", "known_hosts": b"ssh-ed25519 AAAA", "ssh_index": 0} | changes
        rows = [
            [number, parent, f"host{number}", values["address"] or f"host{number}", *list(values.values())[1:]]
            for number, parent in entries
        ]
        self.send(frames.LINK, [self.host], order=order, ssh=[list(ssh)], entries=rows)

    def quit(self, hosts: Iterable[int], kill: bool = False) -> None:
        """QUIT."""
        self.send(frames.QUIT, hosts, kill=kill)

    def close_stdin(self) -> None:
        """The end of the link, as the node program sees it."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()

    # Upward

    def read(self, timeout_s: float = DEADLINE_S) -> bool:
        """Take in what comes next; False when nothing came within ``timeout_s`` or the stream has ended."""
        if self.ended or not select.select([self._out], [], [], timeout_s)[0]:
            return False
        data = os.read(self._out, 1 << 20)
        if not data:
            self.ended = True
            self.prelude.finish()
            return False
        if self.prelude.state == self.prelude.WAITING:
            if self.prelude.feed(data) != self.prelude.FOUND:
                return True
            data = self.prelude.rest
        for kind, _flags, epoch, hosts, body in self._decoder.feed(data):
            self._take(kind, epoch, hosts, body)
        return True

    def _take(self, kind: int, epoch: int, hosts: bytes, body: bytes) -> None:
        fixed = kind in (frames.OUTPUT, frames.CREDIT)
        self.seen.append(
            Frame(
                kind, epoch, hostset.members(hostset.decode(hosts)), {} if fixed else messages.decode(kind, body), body
            )
        )
        if kind == frames.PING and self.answers_pings:
            self.send(frames.PONG, [], n=self.seen[-1].fields["n"])
        if kind == frames.OUTPUT:
            self.bulk_bytes += frames.HEADER_BYTES + len(hosts) + len(body)
            if self.credits:
                self.write(frames.encode(frames.CREDIT, b"", messages.encode_credit(self.bulk_bytes)))
            if self.acks:
                self._acknowledge(self.seen[-1])

    def _acknowledge(self, output: Frame) -> None:
        """Say that a piece is stored, of every host that it came from."""
        op, stream, flags, offset = messages.decode_output(output.body)
        data = output.body[messages.OUTPUT_HEADER_BYTES :]
        end = offset + (int.from_bytes(data, "big") if flags & messages.GAP else len(data))
        for host in output.hosts:
            stored = self.stored.setdefault((host, op), [0, 0])
            stored[stream - 1] = max(stored[stream - 1], end)
            self.send(frames.ACK, [host], op=op, stdout=stored[0], stderr=stored[1], ordinal=0, resume=False)

    def wait(self, what: Callable[[Self], bool], timeout_s: float = DEADLINE_S) -> None:
        """Read until ``what(self)``. Raises AssertionError when the deadline or the end comes first."""
        deadline = time.monotonic() + timeout_s
        while not what(self):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or (not self.read(left_s) and not what(self)):
                raise AssertionError(f"not within {timeout_s} s; ended: {self.ended}\n{self.story()}")

    def wait_end(self, timeout_s: float = DEADLINE_S) -> int:
        """Read to the end of its stdout; its exit code."""
        self.wait(lambda driver: driver.ended, timeout_s)
        return self.process.wait(timeout_s)

    def of(self, kind: int) -> list[Frame]:
        """What came of one kind."""
        return [frame for frame in self.seen if frame.kind == kind]

    def ready(self) -> set[int]:
        """The hosts that said READY."""
        return {host for frame in self.of(frames.READY) for host in frame.hosts}

    def logs(self) -> str:
        """The text of every LOG."""
        return "\n".join(frame.fields["text"] for frame in self.of(frames.LOG))

    def lost(self) -> dict[int, tuple[str, list[int]]]:
        """child -> (code, hosts) of every LOST."""
        return {frame.fields["child"]: (frame.fields["code"], frame.hosts) for frame in self.of(frames.LOST)}

    def state_dirs(self) -> list[Path]:
        """What node programs of this mesh have left on disk."""
        return sorted(Path(f"/tmp/.plush-{os.getuid()}").glob(f"{self.mesh}-*"))

    def story(self) -> str:
        """What came, for a failing test."""
        lines = [f"{frame.name} {frame.hosts} {frame.fields or frame.body[:24]!r}" for frame in self.seen[-40:]]
        lines.append(f"prelude: {self.prelude.state} {self.prelude.code} {self.prelude.text} {self.prelude.quote()!r}")
        if self.process.stderr and self.process.poll() is not None:
            os.set_blocking(self.process.stderr.fileno(), False)
            lines.append(f"stderr: {(self.process.stderr.read(4000) or b'')!r}")
        return "\n".join(lines)


FAKE_SSH = """#!{python} -IS
import os, sys
words = sys.argv[1:]
with open(os.path.join({folder!r}, "calls"), "a") as file:
    file.write(repr(words) + "\\n")
at = words.index("--")
address = words[at + 1].split("@")[-1]
script = os.path.join({folder!r}, address + ".sh")
if os.path.exists(script):
    command = ["sh", script] + words[at + 2:]
else:
    command = ["sh", "-c", " ".join(words[at + 2:])]
pid = os.fork()
if not pid:
    os.setsid()  # what is done to ssh isn't done to the host
    os.execv("/bin/sh", command)
for fd in (0, 1):
    os.close(fd)
status = os.waitpid(pid, 0)[1]
if status & 127:
    os.kill(os.getpid(), status & 127)
os._exit(status >> 8)
"""


def fake_ssh(folder: Path, scripts: Mapping[str, str] | None = None, python: str = sys.executable) -> dict[str, str]:
    """Environment with an ``ssh`` first in PATH that runs the remote command here.

    ``scripts``: address -> shell script run instead, with the remote command as $1. Calls are recorded in
    ``folder/calls``, one Python list a line.
    """
    folder.mkdir(exist_ok=True)
    ssh = folder / "ssh"
    ssh.write_text(FAKE_SSH.format(python=python, folder=str(folder)))
    ssh.chmod(0o755)
    (folder / "python3").unlink(missing_ok=True)
    (folder / "python3").symlink_to(python)
    for address, script in (scripts or {}).items():
        (folder / f"{address}.sh").write_text(script)
    return dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}")
