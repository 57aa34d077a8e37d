"""The hosts of one testbed: making them, their power, and what can be done to one from outside.

Runs inside the keeper, single-threaded, with the keeper's own mount namespace. Knows nothing of sockets and
requests. Entry point: ``Hosts``. Every error is a TestbedError that names the host.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from . import host_files, host_init, host_mounts, host_processes, namespaces
from .cgroups import Groups
from .errors import TestbedError
from .forwarder_client import ForwarderClient
from .host_mounts import FileStore
from .keeper_spec import HostSpec, KeeperSpec
from .tun import make_tun

START_LIMIT_S = 30.0
SSHD_LOOK_S = 0.3  # how often it is looked whether an sshd that doesn't listen yet still lives: a pass over /proc
SSH_PORT = 22
BOOT_FLAGS = (
    namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWUTS
    | namespaces.CLONE_NEWNET
    | namespaces.CLONE_NEWPID
    | namespaces.CLONE_NEWTIME
)


@dataclass(slots=True)
class Host:
    """What the keeper knows of one host."""

    index: int
    spec: HostSpec
    tree: int = -1  # descriptor of the mount namespace with what survives a power-off
    boot_count: int = 0
    pid: int = 0  # of its first process; 0: off
    pid_namespace: int = 0
    is_frozen: bool = False

    @property
    def name(self) -> str:
        return self.spec.name


class Hosts:
    """All hosts, by index. ``ended`` is called with a host whose first process ended though nobody asked."""

    def __init__(self, spec: KeeperSpec, store: FileStore, groups: Groups, forwarder: ForwarderClient) -> None:
        self._spec = spec
        self._store = store
        self._groups = groups
        self._forwarder = forwarder
        self._own = namespaces.OwnNamespaces()
        self.hosts = [Host(index, host) for index, host in enumerate(spec.hosts)]

    # Power

    def power_on(self, indices: Iterable[int]) -> None:
        """Boot these hosts and wait until their sshd listens; those that are on stay on."""
        booting = {host.index: (host, self._boot(host)) for host in self._pick(indices) if not host.pid}
        deadline = time.monotonic() + START_LIMIT_S
        for host, report in booting.values():
            self._await_report(host, report, deadline)
        self._await_sshd([host for host, _ in booting.values()], deadline)

    def power_off(self, indices: Iterable[int]) -> None:
        """The device first, so that no packet says goodbye; then every process. Returns when none is left."""
        off = [host for host in self._pick(indices) if host.pid]
        for host in off:
            self._forwarder.detach(host.index)
        self._kill(off)

    def end_all(self) -> None:
        """Every process of every host; the network is left to whoever ends it."""
        self._kill([host for host in self.hosts if host.pid])

    def reap(self) -> list[Host]:
        """Hosts whose first process ended by itself since the last call; they are off then."""
        ended = []
        for host in self.hosts:
            if host.pid and os.waitpid(host.pid, os.WNOHANG)[0]:
                host.pid, host.is_frozen = 0, False
                self._forwarder.detach(host.index)
                ended.append(host)
        return ended

    def _boot(self, host: Host) -> int:
        """Fork the host's first process; returns the descriptor on which it reports."""
        self._groups.make(host.name, host.spec.cpu_share)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            if host.tree < 0:
                host.tree = host_mounts.make_tree(host.spec, self._store, self._spec.disk_mib)
            else:
                namespaces.setns(host.tree, namespaces.CLONE_NEWNS)
            namespaces.unshare(BOOT_FLAGS)
            self._set_clocks(host)
            tun_fd = make_tun(host.spec.address)
            try:
                self._forwarder.attach(host.index, tun_fd)
            finally:
                os.close(tun_fd)
            host.pid = os.fork()
            if host.pid == 0:
                self._be_host(host, writer)
        except BaseException as error:
            os.close(reader)
            if isinstance(error, OSError):
                raise TestbedError(f"{host.name} could not be made: {error}") from error
            raise
        finally:
            os.close(writer)
            self._own.enter()
        host.pid_namespace = host_processes.pid_namespace(host.pid)
        host.boot_count += 1
        return reader

    def _be_host(self, host: Host, report: int) -> NoReturn:
        boot_id = host_files.draw_boot_id(self._spec.seed, host.index, host.boot_count)
        joins = self._groups.joins(host.name)
        host_init.run(host.spec, self._store, self._spec.disk_mib, boot_id, self._spec.sshd, joins, report)

    def _set_clocks(self, host: Host) -> None:
        offsets = host_files.draw_clocks(
            self._spec.seed, host.index, host.boot_count, time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
        )
        with open("/proc/self/timens_offsets", "w") as file:
            file.write(offsets.lines())

    def _await_report(self, host: Host, report: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(report, select.POLLIN)
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        said = os.read(report, 4096) if ready else b"nothing"
        os.close(report)
        if said != host_init.UP:
            what = said.decode(errors="replace") or "its first process was killed: look into the kernel's log (dmesg)"
            raise TestbedError(f"{host.name} did not start ({what}); its log says: {self.log_end(host)}")

    def _await_sshd(self, waiting: Sequence[Host], deadline: float) -> None:
        next_look = time.monotonic() + SSHD_LOOK_S
        while waiting := [host for host in waiting if not self._listens(host)]:
            if time.monotonic() > next_look:
                self._check_sshd_lives(waiting)
                next_look = time.monotonic() + SSHD_LOOK_S
            if time.monotonic() > deadline:
                host = waiting[0]
                raise TestbedError(
                    f"{host.name}: sshd does not listen after {START_LIMIT_S:.0f} s; its log says: "
                    f"{self.log_end(host)}; is the machine overloaded?"
                )
            time.sleep(0.01)

    def _check_sshd_lives(self, hosts: Sequence[Host]) -> None:
        programs = {index: [p.program for p in found] for index, found in self.processes(hosts).items()}
        for host in hosts:
            if not any(program.startswith("sshd") for program in programs[host.index]) and not self._listens(host):
                raise TestbedError(
                    f"{host.name}: sshd ended at once; its log says: {self.log_end(host)}; check its options"
                )

    def _listens(self, host: Host) -> bool:
        try:
            return host_processes.listens(host.pid, SSH_PORT)
        except OSError as error:
            raise TestbedError(f"{host.name} ended while starting; its log says: {self.log_end(host)}") from error

    def _kill(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            if host.is_frozen:
                self._groups.freeze(host.name, frozen=False)  # a process frozen by cgroup v1 takes no signal
            os.kill(host.pid, signal.SIGKILL)
        for host in hosts:
            os.waitpid(host.pid, 0)  # after every other process of its PID namespace
            host.pid, host.is_frozen = 0, False

    # What can be done to a host that is on

    def where(self, index: int) -> dict[str, object]:
        """What it takes to run something in the host: its first process and the control groups to join."""
        host = self._on([index])[0]
        ticks = host_processes.start_ticks(host.pid)
        return {"pid": host.pid, "start_ticks": ticks, "joins": self._groups.joins(host.name)}

    def freeze(self, indices: Iterable[int], frozen: bool) -> None:
        """Stop every process, or let them go on. The kernel still answers for a frozen host: only its programs stop."""
        for host in self._on(indices):
            self._groups.freeze(host.name, frozen)
            host.is_frozen = frozen

    def stop_sshd(self, indices: Iterable[int]) -> None:
        """Kill sshd, listener and sessions; what the sessions started lives on. Again is fine."""
        hosts = self._on(indices)
        while pids := [p.pid for ps in self.processes(hosts).values() for p in ps if p.program.startswith("sshd")]:
            for pid in pids:
                _kill(pid)

    def start_sshd(self, indices: Iterable[int]) -> None:
        """Start it again where it isn't running."""
        hosts = [host for host in self._on(indices) if not self._listens(host)]
        for host in hosts:
            with self._store.log(host.name).open("ab") as log:
                self._inside(host, functools.partial(self._spawn_sshd, host, log.fileno()), "start sshd")
        self._await_sshd(hosts, time.monotonic() + START_LIMIT_S)

    def fill_disk(self, indices: Iterable[int], full: bool) -> None:
        """No byte of room on the disk and in /tmp, or the whole room again."""
        for host in self._on(indices):
            for mount in ("/home", "/tmp"):
                what = f"{'fill' if full else 'free'} {mount}"
                act = functools.partial(host_mounts.set_disk_full, mount, full, self._spec.disk_mib)
                self._inside(host, act, what)

    def processes(self, hosts: Sequence[Host]) -> dict[int, list[host_processes.HostProcess]]:
        """Host index -> its processes."""
        found = host_processes.processes_in({host.pid_namespace for host in hosts if host.pid})
        return {host.index: found.get(host.pid_namespace, []) for host in hosts}

    def log(self, index: int) -> str:
        """What the host's sshd has said since the testbed's start."""
        path = self._store.log(self._pick([index])[0].name)
        return path.read_text(errors="replace") if path.exists() else ""

    def log_end(self, host: Host) -> str:
        """The last words of its sshd, on one line."""
        return " ".join(self.log(host.index)[-500:].split()) or "nothing"

    def _spawn_sshd(self, host: Host, log: int) -> None:
        """From inside the host; the new process is an orphan, which the host's first one adopts."""
        if os.fork():
            return
        host_init.default_signals()
        for path in self._groups.joins(host.name):
            Path(path).write_text("0")
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(self._spec.sshd, host_init.sshd_argv(self._spec.sshd), host_init.ENVIRONMENT)

    def _inside(self, host: Host, act: Callable[[], None], what: str) -> None:
        """Call ``act`` in a child that is inside all namespaces of the host."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            try:
                _enter(host.pid)
                act()
            except BaseException as error:  # noqa: BLE001 - a fork: nothing may get past it
                os.write(writer, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            said = pipe.read().decode(errors="replace")
        os.waitpid(child, 0)
        if said:
            raise TestbedError(f"{host.name}: could not {what}: {said}")

    # Which

    def _pick(self, indices: Iterable[int]) -> list[Host]:
        picked = []
        for index in indices:
            if not 0 <= index < len(self.hosts):
                raise TestbedError(f"there is no host h{index}; there are h0 to h{len(self.hosts) - 1}")
            picked.append(self.hosts[index])
        return picked

    def _on(self, indices: Iterable[int]) -> list[Host]:
        picked = self._pick(indices)
        off = [host.name for host in picked if not host.pid]
        if off:
            raise TestbedError(f"{', '.join(off)}: off; power on first")
        return picked


def _enter(pid: int) -> None:
    fds = {kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in namespaces.KINDS}
    for kind, fd in fds.items():
        namespaces.setns(fd, namespaces.KINDS[kind])


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
