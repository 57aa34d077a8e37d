"""What this machine must have for a testbed, found out before anything is made.

Entry point: ``problems``; one line each that says what to do. ``plan_problems`` is the pure part.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from . import namespaces

PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-agent": "openssh-client", "ssh-add": "openssh-client"}  # fmt: skip # noqa: E501
NAMESPACE_NAMES = {"mnt": "mount", "net": "network", "pid": "PID", "time": "time (Linux 5.6)", "uts": "UTS"}
_SYSTEM_PATH = "/usr/sbin:/usr/local/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found."""

    is_linux: bool
    is_root: bool
    tun_error: str  # "": can be opened
    namespace_errors: Mapping[str, str]  # kind -> why none can be made; those that can be made are not in it
    programs: Mapping[str, str]  # name -> path; "" when it is missing


def find_program(name: str) -> str:
    """The path of a program, also where only root's PATH has it; "" when it is missing."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SYSTEM_PATH) or ""


def look() -> Machine:
    """Find out. Costs a few milliseconds."""
    is_linux = sys.platform == "linux"
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    able = is_linux and is_root
    return Machine(
        is_linux=is_linux,
        is_root=is_root,
        tun_error=_tun_error() if able else "",
        namespace_errors=_namespace_errors() if able else {},
        programs={name: find_program(name) for name in PROGRAMS},
    )


def problems() -> list[str]:
    """Why there can be no testbed here; [] when there can."""
    return plan_problems(look())


def plan_problems(machine: Machine) -> list[str]:
    """One line for each thing that is missing, with what to do."""
    if not machine.is_linux:
        return ["the testbed is made of Linux namespaces: run it on Linux"]
    found = []
    if not machine.is_root:
        found.append("the testbed makes namespaces and network devices: run it as root (sudo)")
    if machine.tun_error:
        found.append(
            f"/dev/net/tun can't be used ({machine.tun_error}): modprobe tun; "
            "in a container, start it with --device /dev/net/tun"
        )
    for kind, error in machine.namespace_errors.items():
        found.append(
            f"no {NAMESPACE_NAMES[kind]} namespace can be made ({error}): use a kernel that has them; "
            "in a container, start it with --privileged"
        )
    for name, path in machine.programs.items():
        if not path:
            package = PROGRAMS[name]
            found.append(f"{name} is missing: apt-get install --no-install-recommends {package} (it need not run)")
    return found


def _tun_error() -> str:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return str(error.strerror)
    return ""


def _namespace_errors() -> dict[str, str]:
    """Tried in a child for each kind, so that nothing here changes."""
    found = {}
    for kind, flag in namespaces.KINDS.items():
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                namespaces.unshare(flag)
            except OSError as error:
                os.write(writer, str(error.strerror).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read().decode()
        os.waitpid(pid, 0)
        if said:
            found[kind] = said
    return found
