"""What a link costs on this machine: measured on real sshd on loopback addresses, and on a node program's start.

Owns the measurements; their meaning and the file are ``plush_worker.trees.link_costs``. A local distance is next to
nothing, so the round trips of a link aren't measured here. Entry point: ``measure_costs``.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from plush_api.local_hosts import LocalHost, LocalHosts
from plush_worker.errors import PeerError
from plush_worker.experiment.directory import HostOptions, Resolved, resolve
from plush_worker.mesh import orders, payload
from plush_worker.mesh.first_link import LinkError, open_first_link
from plush_worker.model import HostEntry, SliceSettings
from plush_worker.node import bootstrap, frames
from plush_worker.trees.link_costs import DEFAULT_KEX, LinkCosts, MeasuredCosts

HOST_COUNT = 4
BULK_COUNT = 64  # asyncssh connections at once: as many as a worker opens
NODE_STARTS = 9
BUSY_SHARE = 0.25  # load for each core
LIMIT_S = 30.0
SSHD_OPTIONS = ("MaxStartups 500",)  # all come from one address, many at once
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


class CalibrationError(PeerError):
    """Something could not be measured; the text says what was tried and what came back."""

    code = "calibration"


@dataclass(frozen=True, slots=True)
class _Login:
    """One ``ssh HOST true``, from start to end."""

    wall_s: float
    client_s: float  # CPU
    server_s: float  # CPU: sshd and the login shell


@dataclass(frozen=True, slots=True)
class _NodeStart:
    """A node program, from the start of the login's command to READY."""

    wall_s: float
    cpu_s: float


def measure_costs(kexes: Sequence[str], login_count: int, say: Callable[[str], None]) -> MeasuredCosts:
    """The costs with each key exchange (DEFAULT_KEX: OpenSSH's own choice), each from ``login_count`` logins.

    Takes about a tenth of a second a login, and wants the machine to itself. ``say`` is told what goes on. Raises
    LocalHostsError without sshd, CalibrationError.
    """
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY_SHARE * cores:
        say(f"this machine is busy (load {load:.1f} on {cores} cores), so waits come out too long: repeat it later")
    say(f"starting the node program {NODE_STARTS} times")
    starts = [_start_node() for _ in range(NODE_STARTS)]
    # Of walls the least: whatever else runs on the machine only adds to them.
    node = _NodeStart(min(s.wall_s for s in starts), median(s.cpu_s for s in starts))
    found, about = {}, {}
    for kex in kexes:
        say(f"key exchange {kex}: {login_count} logins with ssh, {BULK_COUNT} at once with asyncssh")
        own = "" if kex == DEFAULT_KEX else kex
        with LocalHosts(HOST_COUNT, sshd_options=SSHD_OPTIONS, kex=own) as hosts:
            algorithm = _algorithm(hosts)
            login = _log_in(hosts, login_count)
            worker_s = asyncio.run(
                _connect_in_bulk(resolve([hosts.names], HostOptions(directory=str(hosts.directory))))
            )
        spent_s = login.client_s + login.server_s + node.cpu_s
        found[kex] = LinkCosts(
            worker_connect_s=worker_s,
            host_connect_s=login.client_s,
            server_s=login.server_s,
            node_s=node.cpu_s,
            wait_s=max(0.0, login.wall_s + node.wall_s - spent_s),
        )
        about[kex] = {"algorithm": algorithm, "login_wall_s": login.wall_s}
    machine = _machine() | {"node_wall_s": node.wall_s, "login_count": login_count, "key_exchanges": about}
    return MeasuredCosts(found, datetime.now(UTC).isoformat(timespec="seconds"), machine)


# The host's own ssh


def _log_in(hosts: LocalHosts, count: int) -> _Login:
    """``count`` logins, one by one: the least wall, the median CPU time of the client, the mean of the server's."""
    host = next(iter(hosts.hosts.values()))
    _ssh(hosts, host)  # files into memory
    listener = _listener(host)
    walls_s, clients_s, before_s = [], [], _settled_cpu_s(listener)
    for _ in range(count):
        cpu_s, began_s = _children_cpu_s(), time.perf_counter()
        _ssh(hosts, host)
        walls_s.append(time.perf_counter() - began_s)
        clients_s.append(_children_cpu_s() - cpu_s)
    # The kernel gives the time of ended processes in steps of 10 ms: of many logins together it is exact enough.
    return _Login(min(walls_s), median(clients_s), (_settled_cpu_s(listener) - before_s) / count)


def _ssh(hosts: LocalHosts, host: LocalHost, *options: str) -> str:
    """Runs ``true`` on the host; what ssh said."""
    words = ["ssh", "-F", str(hosts.ssh_config), *options, host.name, "true"]
    try:
        ran = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )  # fmt: skip
    except FileNotFoundError as error:
        raise CalibrationError("ssh is missing: install openssh-client") from error
    except subprocess.TimeoutExpired as error:
        raise CalibrationError(f"{host.name} ({host.address}): no end of ssh in {LIMIT_S:.0f} s") from error
    if ran.returncode:
        said = ran.stderr.strip()[-500:] or "nothing"
        log = host.log.read_text(errors="replace").strip()[-300:]
        raise CalibrationError(
            f"{host.name} ({host.address}): ssh ended with {ran.returncode} and said: {said}; its sshd said: {log}"
        )
    return ran.stderr


def _algorithm(hosts: LocalHosts) -> str:
    """The key exchange that was agreed on."""
    said = _ssh(hosts, next(iter(hosts.hosts.values())), "-v")
    match = re.search(r"kex: algorithm: (\S+)", said)
    return match[1] if match else ""


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _listener(host: LocalHost) -> int:
    """The process id of a host's sshd: the one that has its configuration in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if os.fsencode(host.config) in words and b"sshd" in words:
            return int(path.parent.name)
    raise CalibrationError(
        f"{host.name} ({host.address}): its sshd is gone; its log said: {host.log.read_text()[-300:]}"
    )


def _settled_cpu_s(pid: int) -> float:
    """CPU time of a process and of all its ended descendants, once it has no living ones."""
    deadline_s = time.monotonic() + LIMIT_S
    while Path(f"/proc/{pid}/task/{pid}/children").read_text().strip():
        if time.monotonic() > deadline_s:
            raise CalibrationError(f"sshd (process {pid}) still has a session {LIMIT_S:.0f} s after the login's end")
        select.select([], [], [], 0.01)
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in words[11:15]) / os.sysconf("SC_CLK_TCK")


# A worker's asyncssh


class _Handler:
    """The handler of a link on which nothing is to be read."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Nothing comes of ``true``."""

    def connection_lost(self, error: LinkError | None) -> None:
        """Passes the end on."""
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)

    def pause_writing(self) -> None:
        """Nothing is written."""

    def resume_writing(self) -> None:
        """Nothing is written."""


async def _connect_in_bulk(resolved: Resolved) -> float:
    """CPU time of this process for one of many links that it opens at once."""
    entries = resolved.entries
    try:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(_connect(entry, resolved.settings) for entry in entries))  # imports, files
            began_s = time.process_time()
            every = [entries[at % len(entries)] for at in range(BULK_COUNT)]
            await asyncio.gather(*(_connect(entry, resolved.settings) for entry in every))
            return (time.process_time() - began_s) / BULK_COUNT
    except TimeoutError as error:
        raise CalibrationError(f"{BULK_COUNT} links with asyncssh weren't all open within {LIMIT_S:.0f} s") from error


async def _connect(entry: HostEntry, settings: SliceSettings) -> None:
    handler = _Handler()
    try:
        link = await open_first_link(entry, settings, "true", handler, host_key_recorder=_refuse)
        await handler.ended
        link.close()
        await link.wait_closed()
    except LinkError as error:
        raise CalibrationError(f"{entry.name} ({entry.address}): asyncssh could not log in: {error}") from error


def _refuse(entry: HostEntry, key: str) -> None:
    raise LinkError("host_key", f"{entry.name} showed a key that isn't its own: {key}")


# The node program


def _start_node() -> _NodeStart:
    """Starts one as a login does, and lets it go at READY."""
    with _node_process() as node:
        assert node.stdin and node.stdout
        entry, sent = HostEntry("calibration", "127.0.0.1"), payload.build_payload()
        hello = orders.hello_frame("calibrate" + os.urandom(4).hex(), SliceSettings(), 1, entry, 1, 1)
        began_s = time.perf_counter()
        node.stdin.write(bootstrap.header(sent) + hello)
        node.stdin.flush()
        _wait_ready(node.stdout.fileno())
        return _NodeStart(time.perf_counter() - began_s, _running_cpu_s(node.pid))


@contextmanager
def _node_process() -> Iterator[subprocess.Popen[bytes]]:
    """The command that a worker runs on a host, run here."""
    with tempfile.TemporaryDirectory(prefix="plush-calibrate-") as folder:
        python = shutil.which("python3", path=_SYSTEM_PATH) or sys.executable
        (Path(folder) / "python3").symlink_to(python)
        node = subprocess.Popen(
            ["/bin/sh", "-c", bootstrap.command_line()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PATH": f"{folder}:{_SYSTEM_PATH}", "HOME": folder},
        )  # fmt: skip
        assert node.stdin and node.stdout
        try:
            yield node
        finally:
            try:
                node.stdin.close()
            except BrokenPipeError:
                pass  # it ended early; _wait_ready has said so
            node.stdout.close()
            try:
                node.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def _wait_ready(fd: int) -> None:
    heard, deadline_s = b"", time.monotonic() + LIMIT_S
    while select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
        data = os.read(fd, 65536)
        heard += data
        _, found, after = heard.partition(frames.MARKER)
        if found and any(frame[0] == frames.READY for frame in frames.Decoder().feed(after)):
            return
        if not data:
            break
    raise CalibrationError(f"the node program did not get ready on this machine; it said {heard[-300:]!r}")


def _running_cpu_s(pid: int) -> float:
    """CPU time so far of a living process, in nanosecond steps."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def _machine() -> dict[str, Any]:
    from importlib.metadata import version

    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "openssh": ssh.partition(",")[0].strip(),
        "python": platform.python_version(),
        "asyncssh": version("asyncssh"),
    }
