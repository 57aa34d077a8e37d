"""Real ``sshd`` processes on loopback addresses of this machine: the hosts of the demo, of tests and of benchmarks.

Owns their keys, configuration files and lives; a guard process (``local_hosts_guard.py``) ends everything below them
when the owner leaves the ``with`` block or dies. Knows nothing about meshes or runs. Entry point: ``LocalHosts``.
Every host is this machine under another address, logged in to as the current user, who may be root or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from plush_api import local_hosts_guard
from plush_worker.errors import PeerError

START_LIMIT_S = 20.0
STOP_LIMIT_S = 15.0
SLICE = "local"  # the name of the directory's slice: every host
FASTER_KEX = "curve25519-sha256"  # a fifth of the CPU time of OpenSSH's default, so that many hosts fit on few cores


class LocalHostsError(PeerError):
    """A local host could not be made; the text names it, what was tried and what to do."""

    code = "local_hosts"


@dataclass(frozen=True, slots=True)
class HostEnvironment:
    """What a login on one host finds; made by a wrapper that sshd starts in place of each command."""

    shell: str = ""  # runs the command with -c, as a login shell does; empty: the user's own
    home: Path | None = None  # HOME, and the current directory; start-up files of the shell are read from there
    path: str | None = None  # PATH
    prints: bytes = b""  # written to stdout ahead of the command
    setup: str = ""  # lines of sh run ahead of the command, such as "ulimit -n 16"
    mounts: str = ""  # lines of sh run in a mount namespace of the login's own; root only
    environ: Mapping[str, str] = field(default_factory=dict)
    sshd_options: tuple[str, ...] = ()  # lines of sshd_config; the first of a keyword wins, as in sshd

    def needs_wrapper(self) -> bool:
        """Whether commands run other than sshd would run them."""
        return self != HostEnvironment(sshd_options=self.sshd_options)


@dataclass(frozen=True, slots=True)
class LocalHost:
    """One host and where its files are."""

    name: str
    address: str
    port: int
    user: str
    host_key: str  # public: "ssh-ed25519 AAAA..."
    site: str
    config: Path  # sshd_config
    log: Path
    home: Path  # HOME of a login, unless its environment has another
    environment: HostEnvironment


@dataclass(frozen=True, slots=True)
class LocalProcess:
    """A process that a login on a local host started."""

    pid: int
    command: str


class LocalHosts:
    """``count`` hosts named ``node1`` ... ``nodeN``, up inside the ``with`` block.

    ``folder`` (made and removed here when not given) gets ``hosts.yaml`` (``directory``), ``ssh_config``,
    ``known_hosts`` and the user's key ``identity``, which every host accepts. ``environments`` maps a name to what
    logins on it find. ``kex`` empty means OpenSSH's default key exchange. ``slice_settings`` go into the slice.
    Entering raises LocalHostsError; 64 hosts take about a second on two cores.
    """

    def __init__(
        self,
        count: int,
        *,
        folder: Path | None = None,
        environments: Mapping[str, HostEnvironment] | None = None,
        sshd_options: Sequence[str] = (),
        kex: str = FASTER_KEX,
        site_count: int = 1,
        slice_settings: Mapping[str, object] | None = None,
    ) -> None:
        self.count = count
        self.hosts: dict[str, LocalHost] = {}
        self.slice_settings = dict(slice_settings or {})
        self._environments = dict(environments or {})
        self._sshd_options = tuple(sshd_options)
        self._kex = kex
        self._site_count = site_count
        self._folder_given = folder
        self._guard: subprocess.Popen[bytes] | None = None
        self._listeners: dict[str, int] = {}

    # Where things are

    @property
    def folder(self) -> Path:
        """The folder of all files."""
        return self._folder

    @property
    def directory(self) -> Path:
        """The host directory."""
        return self._folder / "hosts.yaml"

    @property
    def ssh_config(self) -> Path:
        """An OpenSSH client configuration that knows every host."""
        return self._folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        """The hosts' public keys."""
        return self._folder / "known_hosts"

    @property
    def identity(self) -> Path:
        """The private key that every host accepts."""
        return self._folder / "identity"

    @property
    def names(self) -> str:
        """All names, folded, as ``-w`` takes them."""
        return f"node[1-{self.count}]" if self.count > 1 else "node1"

    # Life

    def __enter__(self) -> Self:
        self._folder = self._folder_given or Path(tempfile.mkdtemp(prefix="plush-hosts-"))
        try:
            self._prepare()
            self._start_guard()
            for host in self.hosts.values():
                self._send({"do": "start", "host": host.name, "argv": self._argv(host)})
            for _ in self.hosts:
                self._receive()
            self._wait_listening(list(self.hosts.values()))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every host and what runs on it, and remove the folder. Raises LocalHostsError when something stays."""
        guard, self._guard = self._guard, None
        code = 0
        if guard is not None and guard.stdin and guard.stdout:
            with contextlib.suppress(BrokenPipeError):
                guard.stdin.close()
            guard.stdout.close()
            try:
                code = guard.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                guard.kill()
                code = guard.wait()
        if self._folder_given is None:  # the guard's task too, for an owner that is killed
            shutil.rmtree(self._folder, ignore_errors=True)
        if code:
            raise LocalHostsError(f"the guard of the local hosts ended with {code}: look for sshd that stayed")

    @property
    def up(self) -> bool:
        """Whether the hosts are up."""
        return self._guard is not None

    def wait_quiet(self, limit_s: float) -> list[LocalProcess]:
        """Wait until no login has left a process; returns what stayed after ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while (left := self.processes()) and time.monotonic() < deadline:
            select.select([], [], [], 0.02)
        return left

    def stop(self, name: str) -> None:
        """Kill one host's sshd, its sessions and their processes, as when its power fails (but TCP says goodbye)."""
        pids = [process.pid for process in self.processes(name)]
        self._send({"do": "kill", "host": name, "pids": pids})
        self._receive()
        self._listeners.pop(name, None)

    def start(self, name: str) -> None:
        """Start a stopped host again, with the same key and address."""
        host = self.hosts[name]
        self._send({"do": "start", "host": name, "argv": self._argv(host)})
        self._receive()
        self._wait_listening([host])

    def pause(self, name: str) -> None:
        """Freeze the listener: the kernel still accepts connections, and nobody answers on them."""
        os.kill(self._listeners[name], signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Undo pause."""
        os.kill(self._listeners[name], signal.SIGCONT)

    def processes(self, name: str = "") -> list[LocalProcess]:
        """What logins started, without sshd's own processes; with ``name`` only on that host (by SSH_CONNECTION)."""
        if self._guard is None:
            return []
        found = []
        for pid in local_hosts_guard.descendants(self._guard.pid):
            try:
                proc = Path(f"/proc/{pid}")
                command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                program = (proc / "comm").read_text()
                mine = not name or self._logged_in(pid, self.hosts[name])
            except OSError:
                continue  # it ended meanwhile
            if command and mine and not program.startswith("sshd"):
                found.append(LocalProcess(pid, command))
        return found

    @staticmethod
    def _logged_in(pid: int, host: LocalHost) -> bool:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        end = f" {host.address} {host.port}".encode()
        return any(v.startswith(b"SSH_CONNECTION=") and v.endswith(end) for v in variables)

    # Files

    def _prepare(self) -> None:
        self._sshd = _find_sshd()
        self._user = pwd.getpwuid(os.getuid())
        addresses, port = _free_addresses(self.count)
        keygen = shutil.which("ssh-keygen")
        if keygen is None:
            raise LocalHostsError("ssh-keygen is missing: install openssh-client")
        (self._folder / "hosts").mkdir(mode=0o700)
        key_files = [self.identity, *(self._folder / "hosts" / f"node{i}.key" for i in range(1, self.count + 1))]
        with ThreadPoolExecutor((os.cpu_count() or 1) * 2) as pool:
            public = list(pool.map(lambda path: _make_key(keygen, path), key_files))
        self._write(self._folder / "authorized_keys", public[0] + "\n")
        for i, (address, key) in enumerate(zip(addresses, public[1:], strict=True), 1):
            self._add_host(f"node{i}", address, port, key, f"site{(i - 1) * self._site_count // self.count + 1}")
        self._write(self.known_hosts, "".join(f"[{h.address}]:{h.port} {h.host_key}\n" for h in self.hosts.values()))
        self._write(self.ssh_config, self._ssh_config_text())
        self._write(self.directory, self._directory_text())
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own, for privilege separation

    @staticmethod
    def _write(path: Path, text: str | bytes, mode: int = 0o600) -> None:
        path.touch(mode=mode)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    def _add_host(self, name: str, address: str, port: int, key: str, site: str) -> None:
        base = self._folder / "hosts" / name
        environment = self._environments.get(name, HostEnvironment())
        host = LocalHost(
            name=name, address=address, port=port, user=self._user.pw_name, host_key=key, site=site,
            config=base.with_suffix(".conf"), log=base.with_suffix(".log"),
            home=environment.home or base.with_suffix(".home"), environment=environment,
        )  # fmt: skip
        self.hosts[name] = host
        base.with_suffix(".home").mkdir(mode=0o700)
        self._write(host.config, self._sshd_config_text(host, base))
        if environment.needs_wrapper():
            self._write(base.with_suffix(".out"), environment.prints)
            self._write(base.with_suffix(".sh"), self._wrapper_text(environment, base), mode=0o700)

    def _sshd_config_text(self, host: LocalHost, base: Path) -> str:
        wrapped = host.environment.needs_wrapper()
        lines = [
            *host.environment.sshd_options,
            *self._sshd_options,
            f"ListenAddress {host.address}:{host.port}",
            f"HostKey {base.with_suffix('.key')}",
            f"AuthorizedKeysFile {self._folder / 'authorized_keys'}",
            "StrictModes no",
            f"UsePAM {'yes' if _needs_pam(self._user) else 'no'}",
            "PidFile none",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "PrintMotd no",
            "PrintLastLog no",
            *([f"KexAlgorithms {self._kex}"] if self._kex else []),
            # A home of its own: the start-up files of whoever runs this are no part of a host.
            f"SetEnv HOME={base.with_suffix('.home')}",
            *([f'ForceCommand exec /bin/sh "{base.with_suffix(".sh")}"'] if wrapped else []),
            # Tests fail logins on purpose; a penalty would then keep out the good ones, all from 127.0.0.1.
            *(["PerSourcePenalties no"] if _openssh_version(self._sshd) >= (9, 8) else []),
        ]
        return "\n".join(lines) + "\n"

    def _wrapper_text(self, environment: HostEnvironment, base: Path) -> str:
        shell = environment.shell or self._user.pw_shell or "/bin/sh"
        lines = ["#!/bin/sh", "unset SHLVL"]  # bash reads ~/.bashrc for sshd only in an outermost shell
        lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.environ.items()]
        if environment.prints:
            lines.append(f"cat {shlex.quote(str(base.with_suffix('.out')))}")
        if environment.home is not None:
            lines += [f"export HOME={shlex.quote(str(environment.home))}", 'cd "$HOME"']
        if environment.path is not None:
            lines.append(f"export PATH={shlex.quote(environment.path)}")
        if environment.setup:
            lines.append(environment.setup)
        lines.append(f"export SHELL={shlex.quote(shell)}")
        start = f'exec {shlex.quote(shell)} -c "$SSH_ORIGINAL_COMMAND"'
        if environment.mounts:
            unshare = shutil.which("unshare") or "/usr/bin/unshare"  # PATH is already the login's
            inner = shlex.quote(f"{environment.mounts}\n{start}")
            lines.append(f"exec {unshare} -m --propagation private /bin/sh -c {inner}")
        else:
            lines.append(start)
        return "\n".join(lines) + "\n"

    def _ssh_config_text(self) -> str:
        each = "".join(f"Host {h.name}\n    HostName {h.address}\n\n" for h in self.hosts.values())
        first = next(iter(self.hosts.values()))
        return each + "\n    ".join(
            [
                "Host node*",
                f"Port {first.port}",
                f"User {first.user}",
                f"IdentityFile {self.identity}",
                "IdentitiesOnly yes",
                "IdentityAgent none",
                f"UserKnownHostsFile {self.known_hosts}",
                "GlobalKnownHostsFile /dev/null",
                "StrictHostKeyChecking yes",
                *([f"KexAlgorithms {self._kex}"] if self._kex else []),
            ]
        ) + "\n"  # fmt: skip

    def _directory_text(self) -> str:
        """The directory as YAML, of which JSON is a part."""
        first = next(iter(self.hosts.values()))
        settings: dict[str, object] = {"hosts": "@all", "inner_login": "key", "inner_identity": str(self.identity)}
        data = {
            "ssh_config": False,  # the person's own is no part of these hosts
            "defaults": {
                "user": first.user, "port": first.port, "identity": str(self.identity),
                "identity_agent": "none", "identities_only": True,
                "known_hosts_file": str(self._folder / "recorded_keys"),
            },
            "hosts": {
                h.name: {"address": h.address, "host_key": h.host_key, "site": h.site} for h in self.hosts.values()
            },
            "slices": {SLICE: settings | self.slice_settings},
        }  # fmt: skip
        return json.dumps(data, indent=1) + "\n"

    # The guard

    def _argv(self, host: LocalHost) -> list[str]:
        return [self._sshd, "-D", "-f", str(host.config), "-E", str(host.log)]

    def _start_guard(self) -> None:
        own = [str(self._folder)] if self._folder_given is None else []
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", local_hosts_guard.__file__, *own],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _send(self, command: Mapping[str, object]) -> None:
        if self._guard is None or self._guard.stdin is None:
            raise LocalHostsError("the local hosts are not up")
        self._guard.stdin.write(json.dumps(command).encode() + b"\n")
        self._guard.stdin.flush()

    def _receive(self) -> None:
        assert self._guard is not None
        assert self._guard.stdout is not None
        line = self._guard.stdout.readline()
        if not line:
            raise LocalHostsError("the guard of the local hosts has ended")
        answer = json.loads(line)
        self._listeners[answer["host"]] = answer["pid"]

    def _wait_listening(self, hosts: Sequence[LocalHost]) -> None:
        wanted = {(h.address, h.port): h for h in hosts}
        deadline = time.monotonic() + START_LIMIT_S
        while missing := wanted.keys() - _listening():
            host = wanted[min(missing)]
            ended = not Path(f"/proc/{self._listeners[host.name]}").exists()
            if ended or time.monotonic() > deadline:
                log = host.log.read_text(errors="replace")[-1000:].strip() if host.log.exists() else ""
                what = "sshd ended at once" if ended else f"sshd does not listen after {START_LIMIT_S:.0f} s"
                raise LocalHostsError(
                    f"{host.name} ({host.address} port {host.port}): {what}; it said: {log or 'nothing'}; "
                    f"try: {shlex.join(self._argv(host)[:-2])} -d"
                )
            select.select([], [], [], 0.01)


def _find_sshd() -> str:
    """sshd by its full way, which it asks for since it starts itself again."""
    found = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise LocalHostsError("sshd is missing: install openssh-server (it need not run as a service)")
    return found


def _openssh_version(sshd: str) -> tuple[int, int]:
    """The version of the installed OpenSSH. An unknown option prints it in every version; -V only since 9.2."""
    said = subprocess.run([sshd, "-?"], capture_output=True, text=True, check=False).stderr
    match = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _needs_pam(user: pwd.struct_passwd) -> bool:
    """Whether sshd without PAM would take the account for locked (Ubuntu's root): its password begins with "!"."""
    if os.getuid() != 0:
        return False
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{user.pw_name}:!") for line in lines)


def _make_key(keygen: str, path: Path) -> str:
    """Make an Ed25519 key pair; returns the public half without its comment."""
    made = subprocess.run(
        [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        raise LocalHostsError(f"ssh-keygen could not make {path}: {made.stdout}{made.stderr}")
    return " ".join(path.with_suffix(path.suffix + ".pub").read_text().split()[:2])


def _free_addresses(count: int) -> tuple[list[str], int]:
    """``count`` loopback addresses and one port that is free on all of them."""
    for _ in range(50):
        block = f"127.{random.randint(1, 254)}.{random.randint(0, 250)}"
        net, _, third = block.rpartition(".")
        addresses = [f"{net}.{int(third) + i // 250}.{i % 250 + 1}" for i in range(count)]
        with contextlib.ExitStack() as sockets:
            port = 0
            try:
                for address in addresses:
                    listener = sockets.enter_context(socket.socket())
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind((address, port))
                    port = listener.getsockname()[1]
            except OSError:
                continue
            return addresses, port
    raise LocalHostsError("no free port on the loopback addresses 127.x.y.z: Linux is needed, with its lo interface up")


def _listening() -> set[tuple[str, int]]:
    """Every IPv4 (address, port) on which somebody listens; without connecting, which sshd would log."""
    found = set()
    for line in _lines(Path("/proc/net/tcp")):
        words = line.split()
        if words[3] == "0A":
            address, port = words[1].split(":")
            found.add((socket.inet_ntoa(int(address, 16).to_bytes(4, sys.byteorder)), int(port, 16)))
    return found


def _lines(path: Path) -> Iterator[str]:
    """The lines of a table below /proc, without its heading."""
    yield from path.read_text().splitlines()[1:]
