"""The processes of a one-machine service as children of this one: a Redis server, workers, Flower.

Owns starting them side by side, learning when each is really ready, noticing that one died, and ending all of them.
Used by ``plush up`` in the foreground and by the guard of an embedded stack. Each part has a session of its own, so
that a Ctrl-C at the terminal reaches only this process, which then ends them in order; workers hold a lifeline pipe and
server and Flower a parent-death signal, so that they end even when this process is killed with SIGKILL.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from plush_worker.errors import PartFailed
from plush_worker.store.address import Address

WORKER_MODULE = "plush_worker.worker_process"
FLOWER_MODULE = "plush_api.flower_part"
_TAIL_BYTES = 1500
_PR_SET_PDEATHSIG = 1


@dataclass
class Part:
    """One process. ``detail`` is what it said when it became ready: a URL, or nothing."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_fd: int = -1
    ready: bool = False
    detail: str = ""
    said: bytes = b""
    has_lifeline: bool = False  # ends by itself when we close the lifeline


@dataclass
class Stack:
    """All parts. ``folder`` takes logs and the server's data; ``environment`` goes to every part."""

    folder: Path
    environment: Mapping[str, str]
    address: Address  # of the server that is or will be
    parts: list[Part] = field(default_factory=list)
    on_ready: Callable[[Part], None] = lambda _part: None

    def __post_init__(self) -> None:
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._watched: dict[int, Part] = {}

    def start_worker(self, name: str, arguments: tuple[str, ...] = (), **environment: str) -> None:
        """Start a worker called ``name``; it waits for the server by itself. ``arguments`` replace the program."""
        arguments = arguments or ("-P", "-m", WORKER_MODULE)
        self._start(f"worker {name}", arguments, {**environment, "PLUSH_WORKER_NAME": name})

    def start_flower(self, **environment: str) -> None:
        """Start Flower; it waits for the server by itself and tells its URL when it serves."""
        self._start("flower", ("-P", "-m", FLOWER_MODULE), environment, die_with_us=True)

    def start_server(self, *, appendonly: bool, start_timeout_s: float = 10.0) -> None:
        """Start the Redis server at ``address`` and wait until it answers. Raises StoreUnavailable."""
        from plush_worker.store.server import find_server, start_server

        program = find_server()
        process = start_server(
            self.folder,
            unix_socket=Path(self.address.path),
            password=self.address.password,
            appendonly=appendonly,
            program=program,
            start_timeout_s=start_timeout_s,
            preexec=_parent_death_signal(),
        )
        part = Part(program.name, process, self.folder / "redis-server.log", detail=str(self.address))
        self.parts.insert(0, part)
        self._set_ready(part)

    def wait(self, others: Iterable[int], timeout_s: float | None = None) -> set[int]:
        """Sleep until something happens, and take note of parts that became ready.

        Returns which of the descriptors ``others`` are readable or at their end; that of ``signals_as_events`` should
        be among them, since the death of a part shows there. Raises PartFailed as soon as a part has ended.
        """
        poll = select.poll()
        for descriptor in (*self._watched, *others):
            poll.register(descriptor, select.POLLIN)
        self._check()
        events = {descriptor for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}
        for descriptor in events & self._watched.keys():
            self._hear(self._watched[descriptor])
        self._check()
        return events & set(others)

    def all_ready(self) -> bool:
        """Whether every part has said that it is ready."""
        return all(part.ready for part in self.parts)

    def stop(self, grace_s: float, *, gently: bool) -> list[str]:
        """End all: workers and Flower, then the server. Returns the names of those that had to be killed.

        ``gently``: workers finish as by SIGTERM, and the server writes its data; else workers end by their lifeline
        and the server is killed, since nothing of it is kept. Without a server workers can't finish anything.
        """
        servers = [part for part in self.parts if part.ready_fd == -1]
        others = [part for part in self.parts if part not in servers]
        finish = gently and any(part.process.poll() is None for part in servers)
        for part in others:
            if finish or not part.has_lifeline:
                part.process.terminate()
        self._close_lifeline(when=not finish)
        killed = _wait_all(others, grace_s)
        self._close_lifeline(when=True)
        for part in servers:
            part.process.terminate() if gently else part.process.kill()
        killed += _wait_all(servers, max(1.0, grace_s / 2))
        for descriptor in self._watched:
            os.close(descriptor)
        self._watched.clear()
        self.parts.clear()
        return killed

    # ---- inside

    def _start(
        self, name: str, arguments: tuple[str, ...], environment: Mapping[str, str], *, die_with_us: bool = False
    ) -> None:
        log = self.folder / f"{name.replace(' ', '-')}.log"
        log.unlink(missing_ok=True)
        ready_read, ready_write = os.pipe()
        variables = {
            **self.environment,
            "PLUSH_REDIS_URL": self.address.url(),
            "PLUSH_READY_FD": str(ready_write),
            "PLUSH_LIFELINE_FD": str(self._lifeline_read),
            "PLUSH_LOG_FILE": str(log),
            **environment,
        }
        variables.pop("PLUSH_REDIS_PASSWORD_FILE", None)
        with open(log.with_suffix(".out"), "wb") as output:
            process = subprocess.Popen(
                (sys.executable, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=variables,
                pass_fds=(ready_write, self._lifeline_read),
                start_new_session=True,
                preexec_fn=_parent_death_signal() if die_with_us else None,  # noqa: PLW1509 - this process has one thread
            )
        os.close(ready_write)
        part = Part(name, process, log, ready_fd=ready_read, has_lifeline=not die_with_us)
        self._watched[ready_read] = part
        self.parts.append(part)

    def _hear(self, part: Part) -> None:
        data = os.read(part.ready_fd, 4096)
        part.said += data
        if data and b"\n" not in part.said:
            return
        del self._watched[part.ready_fd]
        os.close(part.ready_fd)
        if data:
            part.detail = part.said.decode("utf-8", "replace").strip().removeprefix("ready").strip()
            self._set_ready(part)

    def _set_ready(self, part: Part) -> None:
        part.ready = True
        self.on_ready(part)

    def _check(self) -> None:
        for part in self.parts:
            code = part.process.poll()
            if code is not None:
                raise PartFailed(f"{part.name} ended {_how(code)}; {_tail(part.log)}")

    def _close_lifeline(self, *, when: bool) -> None:
        if when and self._lifeline_write >= 0:
            os.close(self._lifeline_write)
            os.close(self._lifeline_read)
            self._lifeline_write = self._lifeline_read = -1


@contextmanager
def signals_as_events() -> Iterator[tuple[int, list[int]]]:
    """A descriptor that becomes readable at SIGCHLD and at the signals to end, and the list of the latter's numbers.

    For the main thread only; what was set before is set again afterwards.
    """
    asked: list[int] = []
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)

    def note(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            asked.append(number)

    numbers = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield read_end, asked
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_end)
        os.close(write_end)


def drain(descriptor: int) -> None:
    """Empty the descriptor of ``signals_as_events``."""
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        pass


def _wait_all(parts: list[Part], grace_s: float) -> list[str]:
    """Wait for all; what lives after ``grace_s`` is killed, and so is what is left of each part's process group."""
    deadline = time.monotonic() + grace_s
    killed = []
    for part in parts:
        try:
            part.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed.append(part.name)
        try:
            os.killpg(part.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        part.process.wait()
    return killed


def _parent_death_signal() -> Callable[[], None] | None:
    """What a child does before its exec so that it gets SIGTERM when we die; None where the kernel can't."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask


def _how(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"


def _tail(log: Path) -> str:
    """The end of a part's output, which tells more when it is there, or of its log."""
    for path in (log.with_suffix(".out"), log):
        try:
            text = path.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
        except OSError:
            continue
        if text:
            return f"{path} ends with:\n{text}"
    return f"it wrote nothing to {log}"
