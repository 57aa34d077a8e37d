"""The processes of a one-machine service as children of this one: a Redis server, workers, the API, Flower.

Owns starting them side by side, learning when each is really ready, noticing that one died, starting it again where
that is wanted (``restarts.py``), and ending all of them. Used by ``plush up`` in the foreground and by the guard of an
embedded stack. Each part has a session of its own, so that a Ctrl-C at the terminal reaches only this process, which
then ends them in order; workers hold a lifeline pipe and the others a parent-death signal, so that they end even when
this process is killed with SIGKILL.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plush_api.restarts import Restarts
from plush_worker.errors import PartFailed, StoreUnavailable
from plush_worker.store.address import Address

WORKER_MODULE = "plush_worker.worker_process"
FLOWER_MODULE = "plush_api.flower_part"
API_MODULE = "plush_api.api_part"
READY_AGAIN_S = 30.0  # a part that was started again and isn't ready by then is taken for dead
_TAIL_BYTES = 1500
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """What a part runs. ``port_variable``: in the environment, where it serves; so that it serves there again."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    has_lifeline: bool = False  # ends by itself when we close the lifeline
    port_variable: str = ""


@dataclass
class Part:
    """One process. ``detail`` is what it said when it became ready: a URL, or nothing."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    program: Program | None = None  # None: the Redis server
    ready_fd: int = -1
    ready: bool = False
    detail: str = ""
    said: bytes = b""
    ready_by_s: float = float("inf")

    @property
    def has_lifeline(self) -> bool:
        """Whether it ends by itself when we close the lifeline."""
        return self.program is not None and self.program.has_lifeline


@dataclass
class Stack:
    """All parts. ``folder`` takes logs and the server's data; ``environment`` goes to every part.

    With ``restarts``, a part that was ready once and dies is started again, and ``on_restart`` hears why and when.
    """

    folder: Path
    environment: Mapping[str, str]
    address: Address  # of the server that is or will be
    parts: list[Part] = field(default_factory=list)
    on_ready: Callable[[Part], None] = lambda _part: None
    restarts: Restarts | None = None
    on_restart: Callable[[str], None] = lambda _text: None

    def __post_init__(self) -> None:
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._watched: dict[int, Part] = {}
        self._due: dict[str, float] = {}  # parts that are dead -> when they are started again
        self._appendonly = False

    def start_worker(self, name: str, arguments: tuple[str, ...] = (), **environment: str) -> None:
        """Start a worker called ``name``; it waits for the server by itself. ``arguments`` replace the program."""
        arguments = arguments or ("-P", "-m", WORKER_MODULE)
        environment |= {"PLUSH_WORKER_NAME": name}
        self._start(Program(f"worker {name}", arguments, environment, has_lifeline=True))

    def start_flower(self, **environment: str) -> None:
        """Start Flower; it waits for the server by itself and tells its URL when it serves."""
        self._start(Program("flower", ("-P", "-m", FLOWER_MODULE), environment, port_variable="FLOWER_PORT"))

    def start_api(self, **environment: str) -> None:
        """Start the API; it waits for the server by itself and tells its URL when it serves."""
        self._start(Program("api", ("-P", "-m", API_MODULE), environment, port_variable="PLUSH_API_PORT"))

    def start_server(self, *, appendonly: bool, start_timeout_s: float = 10.0) -> None:
        """Start the Redis server at ``address`` and wait until it answers. Raises StoreUnavailable."""
        from plush_worker.store.server import find_server, start_server

        program = find_server()
        self._appendonly = appendonly
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
        be among them, since the death of a part shows there. Raises PartFailed when a part has ended that isn't, or
        not any more, to be started again.
        """
        if self._start_due():
            timeout_s = 0.0  # the caller may wait for just that
        self._check()
        poll = select.poll()
        for descriptor in (*self._watched, *others):
            poll.register(descriptor, select.POLLIN)
        limit_s = self._next_s(timeout_s)
        events = {descriptor for descriptor, _ in poll.poll(None if limit_s is None else limit_s * 1000)}
        for descriptor in events & self._watched.keys():
            self._hear(self._watched[descriptor])
        self._check()
        return events & set(others)

    def all_ready(self) -> bool:
        """Whether every part has said that it is ready."""
        return not self._due and all(part.ready for part in self.parts)

    def stop(self, grace_s: float, *, gently: bool) -> list[str]:
        """End all: workers, API and Flower, then the server. Returns the names of those that had to be killed.

        ``gently``: workers finish as by SIGTERM, and the server writes its data; else workers end by their lifeline
        and the server is killed, since nothing of it is kept. Without a server workers can't finish anything.
        """
        servers = [part for part in self.parts if part.program is None]
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
        self._due.clear()
        self.parts.clear()
        return killed

    # ---- inside

    def _start(self, program: Program, *, again: bool = False) -> None:
        log = self.folder / f"{program.name.replace(' ', '-')}.log"
        if not again:
            log.unlink(missing_ok=True)
        ready_read, ready_write = os.pipe()
        variables = {
            **self.environment,
            "PLUSH_REDIS_URL": self.address.url(),
            "PLUSH_READY_FD": str(ready_write),
            "PLUSH_LIFELINE_FD": str(self._lifeline_read),
            "PLUSH_LOG_FILE": str(log),
            **program.environment,
        }
        variables.pop("PLUSH_REDIS_PASSWORD_FILE", None)
        with open(log.with_suffix(".out"), "ab" if again else "wb") as output:
            process = subprocess.Popen(
                (sys.executable, *program.arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=variables,
                pass_fds=(ready_write, self._lifeline_read),
                start_new_session=True,
                preexec_fn=None if program.has_lifeline else _parent_death_signal(),  # noqa: PLW1509 - this process has one thread
            )
        os.close(ready_write)
        part = Part(program.name, process, log, program, ready_fd=ready_read)
        if again:
            part.ready_by_s = time.monotonic() + READY_AGAIN_S
        self._watched[ready_read] = part
        self.parts.append(part)

    def _hear(self, part: Part) -> None:
        data = os.read(part.ready_fd, 4096)
        part.said += data
        if data and b"\n" not in part.said:
            return
        self._unwatch(part)
        if data:
            part.detail = part.said.decode("utf-8", "replace").strip().removeprefix("ready").strip()
            self._set_ready(part)

    def _hear_last(self, part: Part) -> None:
        """It may have become ready just before it died."""
        if part.ready_fd in self._watched and select.select((part.ready_fd,), (), (), 0)[0]:
            self._hear(part)

    def _unwatch(self, part: Part) -> None:
        if self._watched.pop(part.ready_fd, None) is not None:
            os.close(part.ready_fd)

    def _set_ready(self, part: Part) -> None:
        part.ready = True
        part.ready_by_s = float("inf")
        self.on_ready(part)

    def _check(self) -> None:
        """Notes parts that have ended. Raises PartFailed."""
        now_s = time.monotonic()
        for part in list(self.parts):
            if part.process.poll() is None and now_s > part.ready_by_s:
                part.process.kill()
                part.process.wait()
            code = part.process.poll()
            if code is not None and part.name not in self._due:
                self._hear_last(part)
                self._died(part, f"{part.name} ended {_how(code)}")

    def _died(self, part: Part, why: str) -> None:
        if self.restarts is None or not (part.ready or part.ready_by_s < float("inf")):
            raise PartFailed(f"{why}; {_tail(part.log)}")
        _kill_group(part)
        self._unwatch(part)
        part.ready = False
        self._put_off(part, why)

    def _put_off(self, part: Part, why: str) -> None:
        """Start ``part`` again later. Raises PartFailed when that has been done too often."""
        assert self.restarts is not None
        now_s = time.monotonic()
        pause_s = self.restarts.pause_s(part.name, now_s)
        if pause_s is None:
            often = f"it died {self.restarts.limit + 1} times within {self.restarts.within_s:g} s"
            raise PartFailed(f"{why}: {often} and isn't started again; {_tail(part.log)}")
        self._due[part.name] = now_s + pause_s
        self.on_restart(f"{why}: it is started again in {pause_s:g} s; its log is {part.log}")

    def _start_due(self) -> bool:
        """Starts what it is time for; whether anything was."""
        now_s = time.monotonic()
        started = False
        for part in list(self.parts):
            if self._due.get(part.name, now_s + 1) > now_s:
                continue
            self.parts.remove(part)
            if part.program is None:
                try:
                    self.start_server(appendonly=self._appendonly)
                except StoreUnavailable as error:
                    self.parts.insert(0, part)
                    self._put_off(part, f"{part.name} could not be started: {error}")
                    continue
            else:
                self._start(_serving_as_before(part.program, part.detail), again=True)
            del self._due[part.name]
            started = True
        return started

    def _next_s(self, timeout_s: float | None) -> float | None:
        """How long to sleep at most, so that nothing that is due waits."""
        now_s = time.monotonic()
        times_s = [due_s - now_s for due_s in self._due.values()]
        times_s += [part.ready_by_s - now_s for part in self.parts if part.ready_by_s < float("inf")]
        times_s += [] if timeout_s is None else [timeout_s]
        return max(0.0, min(times_s)) if times_s else None

    def _close_lifeline(self, *, when: bool) -> None:
        if when and self._lifeline_write >= 0:
            os.close(self._lifeline_write)
            os.close(self._lifeline_read)
            self._lifeline_write = self._lifeline_read = -1


def _serving_as_before(program: Program, url: str) -> Program:
    """The program told to take the port that it had: people have opened it, commands have read it."""
    from dataclasses import replace
    from urllib.parse import urlsplit

    port = urlsplit(url).port
    if not program.port_variable or port is None:
        return program
    return replace(program, environment={**program.environment, program.port_variable: str(port)})


def _wait_all(parts: list[Part], grace_s: float) -> list[str]:
    """Wait for all; what lives after ``grace_s`` is killed, and so is what is left of each part's process group."""
    deadline = time.monotonic() + grace_s
    killed = []
    for part in parts:
        try:
            part.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed.append(part.name)
        _kill_group(part)
        part.process.wait()
    return killed


def _kill_group(part: Part) -> None:
    try:
        os.killpg(part.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


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
