"""Which processes of this machine belong to which host, by their PID namespace. Reads /proc, changes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TCP_LINE_BYTES = 150  # every line of /proc/net/tcp is padded to this


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A process of a host, as the machine sees it."""

    pid: int  # on the machine, not in the host
    program: str  # /proc/PID/comm
    command: str  # "" for a kernel thread or a zombie


def pid_namespace(pid: int) -> int:
    """The inode that names the PID namespace of a process. Raises OSError when it has ended."""
    return os.stat(f"/proc/{pid}/ns/pid").st_ino


def processes_in(namespaces: set[int]) -> dict[int, list[HostProcess]]:
    """Every living process in one of these PID namespaces, by namespace and pid; one pass over /proc."""
    found: dict[int, list[HostProcess]] = {namespace: [] for namespace in namespaces}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            namespace = pid_namespace(int(entry))
            if namespace in namespaces:
                proc = Path("/proc", entry)
                command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found[namespace].append(HostProcess(int(entry), (proc / "comm").read_text().strip(), command))
        except OSError:
            continue  # it ended meanwhile
    return found


def start_ticks(pid: int) -> int:
    """When a process started, so that its pid can't be mistaken for a later one's. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def listens(pid: int, port: int) -> bool:
    """Whether somebody listens on this TCP port in the network namespace of a process. Raises OSError.

    Listeners come first in the kernel's table; reading single lines spares its walk over all connections, 4 ms.
    """
    with open(f"/proc/{pid}/net/tcp", "rb", buffering=0) as file:
        file.read(_TCP_LINE_BYTES)  # the heading
        while words := file.read(_TCP_LINE_BYTES).split():
            if words[3] != b"0A":
                return False
            if words[1].endswith(b":%04X" % port):
                return True
    return False
