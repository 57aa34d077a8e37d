"""A testbed: N hosts on this machine with a wide area between them, from making it to taking it down.

Owns the harness's side: what the hosts are made of, the keeper process, commands on hosts, faults. Entry points:
``Settings`` and ``Testbed``, a context manager. Root and Linux only; ``machine.problems`` says what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from . import enter, host_files, host_processes, machine, state_folder
from .control import ControlClient, KeeperGone
from .errors import BadInput, TestbedError
from .faults import Fault
from .forwarder_client import Lag
from .host_processes import HostProcess
from .matrix import RttMatrix, load_matrix
from .plan import make_spec

__all__ = ["BadInput", "HostProcess", "Lag", "Settings", "Testbed", "TestbedError"]

CHECKOUT = Path(__file__).parents[2]
START_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0
_KEEPER = "import sys; sys.path.insert(0, sys.argv[1]); from ops.testbed.keeper import main; main(int(sys.argv[2]))"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a testbed is made of. Hosts are counted from 0, the controller."""

    host_count: int
    rtt: str = "planetlab"  # planetlab | zero | path of a matrix file
    rate_mbit: float = 0.0  # 10**6 bit/s up and down of every host; 0: no limit
    jitter: float = 0.0  # share of the one-way delay
    loss: float = 0.0  # share of packets
    seed: int = 1
    sshd_options: tuple[str, ...] = ()  # lines of every host's sshd_config, ahead of ours; the first of a keyword wins
    kex: str = "curve25519-sha256"  # "": OpenSSH's default
    inner_login: str = "agent"  # agent | key | none: how hosts log in to each other
    disk_mib: int = 64  # of a host's homes and /var/tmp together, and of its /tmp
    cpu_shares: Mapping[int, float] = field(default_factory=dict)  # host -> cores
    pythons: Mapping[int, str] = field(default_factory=dict)  # host -> interpreter that its logins find as python3
    slice_settings: Mapping[str, object] = field(default_factory=dict)  # further ones of the slice "testbed"
    visible: tuple[Path, ...] = ()  # of this machine, for host 0, though below a folder that hosts have their own of
    fixture: str = ""  # a key of fixtures.FIXTURES


class Testbed:
    """Up inside the ``with`` block. Every method raises TestbedError; hosts are given by their index.

    Entering takes about 0.5 s and 10 ms a host. If this process is killed, all of it ends by itself.
    """

    __test__ = False  # for pytest

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.id = secrets.token_hex(4)
        self.up_s = 0.0  # how long it took to come up
        self.down_s = 0.0
        self.notes: list[str] = []  # for people: what was chosen without being asked
        self._keeper: subprocess.Popen[bytes] | None = None
        self._control: ControlClient | None = None
        self._matrix: RttMatrix | None = None
        self._environment: dict[str, str] = {}

    # Life

    def __enter__(self) -> Self:
        began = time.monotonic()
        found = machine.problems()
        if found:
            raise TestbedError("\n".join(found))
        state_folder.clean()
        self._matrix = load_matrix(self.settings.rtt, self.settings.host_count, self.settings.seed)
        plan = make_spec(self.id, self.settings, self._matrix)
        self.notes = plan.notes
        self._environment = self._make_environment(plan.visible)
        try:
            self._control = self._start_keeper()
            self._control.ask(plan.spec.to_json(), START_LIMIT_S)
        except BaseException:
            self._end_keeper()
            raise
        self.up_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take everything down; again is fine."""
        if self._control is None:
            return
        began = time.monotonic()
        try:
            self._control.ask({"do": "down"}, STOP_LIMIT_S)
        except KeeperGone:
            state_folder.clean()
            raise
        finally:
            self._end_keeper()
            self.down_s = time.monotonic() - began

    def _start_keeper(self) -> ControlClient:
        ours, theirs = socket.socketpair()
        with theirs:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _KEEPER, str(CHECKOUT), str(theirs.fileno())],
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd="/",
            )  # fmt: skip
        return ControlClient(ours)

    def _end_keeper(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._keeper is not None:
            keeper, self._keeper = self._keeper, None
            try:
                keeper.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
                state_folder.clean()

    # Where things are

    @property
    def names(self) -> list[str]:
        """By host."""
        return [host_files.name(host) for host in range(self.settings.host_count)]

    @property
    def directory(self) -> Path:
        """The host directory, a path on host 0."""
        return Path(host_files.DIRECTORY)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a command of root on host 0 finds; all of it this process's own but for what belongs to the host."""
        return self._environment

    @property
    def control(self) -> Path:
        """The socket on which others order faults; there on host 0, too."""
        return state_folder.BASE / self.id / state_folder.CONTROL

    def address(self, host: int) -> str:
        """IPv4."""
        return host_files.address(host)

    def rtt_s(self, a: int, b: int) -> float:
        """What the matrix says."""
        assert self._matrix is not None
        return self._matrix.rtt_s[a][b]

    def sites(self) -> Sequence[str]:
        """By host."""
        assert self._matrix is not None
        return self._matrix.sites

    def log(self, host: int) -> str:
        """What the host's sshd said."""
        return str(self._ask({"do": "log", "host": host}))

    # Commands on hosts

    def popen(
        self,
        argv: Sequence[str],
        *,
        host: int = 0,
        user: str = "root",
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        **popen_options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a command on a host, not by ssh; ``env`` is added to ``environment`` (root on host 0) or a login's.

        Signals sent to the Popen reach the command, killing it kills the command, and its exit code is the command's;
        125 and a line on stderr mean that the host was off. ``cwd`` is a path on the host, by default the home.
        """
        if user not in {"root", host_files.USER}:
            raise BadInput(f"there is no user {user} on the hosts: root or {host_files.USER}")
        home = host_files.ROOT_HOME if user == "root" else host_files.USER_HOME
        where = self._ask({"do": "where", "host": host})
        target = where | {"uid": 0 if user == "root" else host_files.USER_ID, "cwd": str(cwd or home)}
        base = self._environment if user == "root" and host == 0 else _login_environment(user, home)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", enter.__file__, json.dumps(target), *argv],
            env={**base, **(env or {})}, **popen_options,
        )  # fmt: skip

    def run(
        self, argv: Sequence[str], *, timeout_s: float = 60.0, stdin: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with its output as text. Raises TestbedError when it takes too long."""
        process = self.popen(
            argv, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            out, err = process.communicate()
            where = host_files.name(options.get("host", 0))
            raise TestbedError(
                f"{where}: {' '.join(argv)}: no end in {timeout_s:.0f} s; stdout {out!r}, stderr {err!r}"
            ) from error
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def processes(self, host: int) -> list[HostProcess]:
        """Every process of the host, with its pid on this machine; the host must be on."""
        with contextlib.suppress(OSError):
            namespace = host_processes.pid_namespace(self._ask({"do": "where", "host": host})["pid"])
            return host_processes.processes_in({namespace})[namespace]
        return []

    def _make_environment(self, visible: Sequence[str]) -> dict[str, str]:
        dropped = ("SSH_", "XDG_", "SUDO_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        if kept.get("TMPDIR", "") not in visible:
            kept.pop("TMPDIR", None)
        return kept | _login_environment("root", host_files.ROOT_HOME) | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "PLUSH_DIRECTORY": host_files.DIRECTORY,
            "SSH_AUTH_SOCK": host_files.AGENT_SOCKET,
            state_folder.CONTROL_VARIABLE: str(self.control),
        }  # fmt: skip

    # Faults; what each one does is told in faults.KINDS

    def apply(self, fault: Fault) -> None:
        """Any fault; it holds when this returns."""
        self._ask(fault.request())

    def power_off(self, hosts: Iterable[int]) -> None:
        """Device first, then every process: no packet says goodbye."""
        self.apply(Fault("power-off", tuple(hosts)))

    def power_on(self, hosts: Iterable[int]) -> None:
        """Boot; returns when sshd listens."""
        self.apply(Fault("power-on", tuple(hosts)))

    def freeze(self, hosts: Iterable[int]) -> None:
        """Stop every process; the kernel still answers."""
        self.apply(Fault("freeze", tuple(hosts)))

    def thaw(self, hosts: Iterable[int]) -> None:
        """Undo freeze."""
        self.apply(Fault("thaw", tuple(hosts)))

    def cut(self, a: Iterable[int], b: Iterable[int], both: bool = True) -> None:
        """No packet from ``a`` to ``b``, nor back if ``both``."""
        self.apply(Fault("cut", tuple(a), tuple(b), both=both))

    def heal(self, a: Iterable[int], b: Iterable[int]) -> None:
        """Undo cut between these."""
        self.apply(Fault("heal", tuple(a), tuple(b)))

    def partition(self, hosts: Iterable[int], both: bool = True) -> None:
        """Cut these from all the rest."""
        self.apply(Fault("partition", tuple(hosts), both=both))

    def loss(self, a: Iterable[int], b: Iterable[int], share: float | None) -> None:
        """Lose packets both ways; None: as at the start."""
        self.apply(Fault("loss", tuple(a), tuple(b), share))

    def delay(self, a: Iterable[int], b: Iterable[int], one_way_s: float | None) -> None:
        """Delay packets both ways; None: as at the start."""
        self.apply(Fault("delay", tuple(a), tuple(b), one_way_s))

    def rate(self, hosts: Iterable[int], mbit: float | None) -> None:
        """Up and down; 0: no limit; None: as at the start."""
        self.apply(Fault("rate", tuple(hosts), value=mbit))

    def stop_sshd(self, hosts: Iterable[int]) -> None:
        """Kill listener and sessions, not what they started."""
        self.apply(Fault("stop-sshd", tuple(hosts)))

    def start_sshd(self, hosts: Iterable[int]) -> None:
        """Start it again."""
        self.apply(Fault("start-sshd", tuple(hosts)))

    def fill_disk(self, hosts: Iterable[int]) -> None:
        """No byte of room on the disk and in /tmp; names can still be made."""
        self.apply(Fault("fill-disk", tuple(hosts)))

    def free_disk(self, hosts: Iterable[int]) -> None:
        """The whole room again."""
        self.apply(Fault("free-disk", tuple(hosts)))

    def heal_all(self) -> None:
        """The network as at the start."""
        self.apply(Fault("heal-all"))

    def lag(self, reset: bool = False) -> Lag:
        """How late the forwarder was since the start or the last reset."""
        return Lag(**self._ask({"do": "lag", "reset": reset}))

    def _ask(self, request: Mapping[str, Any]) -> Any:
        if self._control is None:
            raise TestbedError("the testbed is not up")
        return self._control.ask(request)


def _login_environment(user: str, home: str) -> dict[str, str]:
    return {
        "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }  # fmt: skip
