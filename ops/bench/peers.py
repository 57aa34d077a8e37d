"""The peers: how each is started at its best setting, and how its answer is read. Pure but for looking for programs.

``PEERS`` names them. A reader turns what a tool printed into host -> text; hosts that were not heard are not in it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ops.bench.field import Field
from ops.bench.peer_environment import PeerEnvironment

PARALLEL_SSH = Path(__file__).with_name("parallel_ssh_peer.py")
TAKTUK_WINDOW = 64  # the best on 489 hosts with the PlanetLab round trips; its default is 10
ANSIBLE_MAX_HOSTS = 64  # it needs 0.1 s of CPU time for each


@dataclass(frozen=True, slots=True)
class Call:
    """A command to run on the controller."""

    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)  # beside what is there
    standard_input: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """One tool in one setting."""

    name: str
    program: str  # of the peers' environment
    call: Callable[[Field, PeerEnvironment, str], Call]
    read: Callable[[str], dict[str, str]]
    max_hosts: int = 0  # 0: any number
    note: str = ""


def unheard(hosts: Sequence[str], heard: Mapping[str, str], stderr: str) -> str:
    """Why an answer doesn't count; empty when every host was heard and nobody else."""
    missing = [host for host in hosts if host not in heard]
    strange = [host for host in heard if host not in set(hosts)]
    if not missing and not strange:
        return ""
    what = f"heard {len(hosts) - len(missing)} of {len(hosts)} hosts"
    what += f", not {', '.join(missing[:3])}{' and others' * (len(missing) > 3)}" if missing else ""
    what += f", and {', '.join(strange[:3])}, who was not asked" if strange else ""
    said = " ".join(stderr.split())[-300:]
    return f"{what}; it said: {said or 'nothing'}"


# Reading


def read_prefixed(stdout: str) -> dict[str, str]:
    """Lines ``host: text``, as pdsh and clush print them and our two other callers are told to."""
    heard: dict[str, list[str]] = {}
    for line in stdout.splitlines():
        host, colon, text = line.partition(": ")
        if colon:
            heard.setdefault(host, []).append(text)
    return {host: "\n".join(lines) for host, lines in heard.items()}


def read_ansible(stdout: str) -> dict[str, str]:
    """``host | CHANGED | rc=0 >>`` and the text below it; failed hosts are not heard."""
    heard: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in stdout.splitlines():
        head = re.fullmatch(r"(\S+) \| ([A-Z]+!?)(?: \| rc=(\d+) >>)?.*", line)
        if head:
            lines = []
            if head[2] in ("CHANGED", "SUCCESS") and head[3] == "0":
                heard[head[1]] = lines
        else:
            lines.append(line)
    return {host: "\n".join(lines).strip() for host, lines in heard.items()}


def read_plush(stdout: str) -> dict[str, str]:
    """``plush run --json``: hosts that ended with 0."""
    heard = {}
    for line in stdout.splitlines():
        if line.startswith("{"):
            result = json.loads(line)
            if result.get("state") == "exited" and result.get("code") == 0:
                heard[result["host"]] = result.get("stdout", "").strip()
    return heard


# Calling


def pdsh(area: Field, made: PeerEnvironment, command: str, *ssh_options: str) -> Call:
    """All at once: the fan-out is the number of hosts."""
    options = shlex.join((*area.ssh_options(), *ssh_options))
    environ = {"PDSH_SSH_ARGS_APPEND": options} if options else {}
    return Call((made.programs["pdsh"], "-R", "ssh", "-f", str(len(area.hosts)), "-w", area.names, command), environ)


def clush(area: Field, made: PeerEnvironment, command: str) -> Call:
    """All at once, without reading standard input."""
    options = ("-o", shlex.join(area.ssh_options())) if area.ssh_options() else ()
    fanout = ("-f", str(len(area.hosts)))
    return Call((made.programs["clush"], "--nostdin", *fanout, *options, "-w", area.names, command))


def taktuk(area: Field, made: PeerEnvironment, command: str, *options: str) -> Call:
    """A tree by work stealing, with a forwarded agent. The hosts have the program, so it need not be sent."""
    connector = shlex.join(("ssh", *(("-A",) if area.forwards_agent else ()), *area.ssh_options()))
    machines = [word for host in area.hosts for word in ("-m", host)]
    templates = ("-o", "output=\"$host: $line\\n\"", "-o", "status")  # fmt: skip
    words = (made.programs["taktuk"], "-d", "0", "-c", connector, *templates, *options, *machines)
    return Call((*words, "broadcast", "exec", "[", command, "]"))


def ansible(area: Field, made: PeerEnvironment, command: str) -> Call:
    """Its raw module needs no Python on the hosts. Connections are not kept: this is one command."""
    inventory = ",".join(area.hosts) + ","
    environ = {
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_SSH_ARGS": shlex.join((*area.ssh_options(), "-o", "ControlMaster=no", "-o", "ControlPath=none")),
        "ANSIBLE_HOME": f"{made.scratch}/ansible",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_TIMEOUT": "120",
        "LC_ALL": "C.UTF-8",
    }
    argv = (made.programs["ansible"], "all", "-i", inventory, "-m", "raw", "-a", command, "-f", str(len(area.hosts)))
    return Call(argv, environ)


def parallel_ssh(area: Field, made: PeerEnvironment, command: str) -> Call:
    """The library in a program of ours; it reads no configuration of OpenSSH, so it is told everything."""
    order = {
        "hosts": area.hosts, "addresses": area.addresses, "port": area.port, "user": area.user,
        "identity": area.identity, "command": command, "pool_size": len(area.hosts),
    }  # fmt: skip
    return Call((made.programs["parallel-ssh"], "-I", str(PARALLEL_SSH)), {}, json.dumps(order))


def _taktuk_wide(area: Field, made: PeerEnvironment, command: str) -> Call:
    return taktuk(area, made, command, "-w", str(TAKTUK_WINDOW))


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("pdsh -f N", "pdsh", pdsh, read_prefixed),
        Peer("clush -f N", "clush", clush, read_prefixed),
        Peer("taktuk", "taktuk", taktuk, read_prefixed),
        Peer(f"taktuk -w {TAKTUK_WINDOW}", "taktuk", _taktuk_wide, read_prefixed),
        Peer("ansible -m raw -f N", "ansible", ansible, read_ansible, ANSIBLE_MAX_HOSTS),
        Peer("parallel-ssh", "parallel-ssh", parallel_ssh, read_prefixed, 0, "a library; its import is included"),
    )
}


def environ_of(call: Call) -> dict[str, str]:
    """The environment of a call: ours without anything of Plush, and what the call adds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PLUSH_")}
    return kept | dict(call.environ)
