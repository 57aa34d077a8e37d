"""What stands in a host's files, and the numbers that follow from its index. Pure: no file is read or written here.

Hosts are counted from 0; host 0 is the controller. Entry points: ``address``, ``name`` and the ``_text`` functions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

USER = "tester"
USER_ID = 60000
USER_HOME = f"/home/{USER}"
ROOT_HOME = "/home/root"  # not /root, so that interpreters below the machine's own /root can be used
SLICE = "testbed"
AGENT_SOCKET = "/run/ssh-agent.sock"
DIRECTORY = f"{ROOT_HOME}/hosts.yaml"
AUTHORIZED_KEYS = "/etc/ssh/authorized_keys"
SSHD_CONFIG = "/run/sshd_config"  # /run is fresh at every power on; the files are written then
HOST_KEY = "/run/ssh_host_ed25519_key"
LIMIT = 64_000  # hosts: 10.77.0.1 .. 10.77.255.250
DAY_S = 86400.0


def name(host: int) -> str:
    """h0, h1, ..."""
    return f"h{host}"


def address(host: int) -> str:
    """250 to each 10.77.x.0."""
    return f"10.77.{host // 250}.{host % 250 + 1}"


class ClockOffsets(NamedTuple):
    """What a host's clocks add to the machine's, in seconds."""

    monotonic_s: float
    boottime_s: float

    def lines(self) -> str:
        """As /proc/PID/timens_offsets takes them; the nanoseconds are never negative."""
        parts = []
        for clock, offset_s in (("monotonic", self.monotonic_s), ("boottime", self.boottime_s)):
            whole_s = int(offset_s // 1)
            parts.append(f"{clock} {whole_s} {int((offset_s - whole_s) * 1e9)}")
        return "\n".join(parts) + "\n"


def draw_clocks(seed: int, host: int, boot: int, monotonic_s: float, boottime_s: float) -> ClockOffsets:
    """The offsets of one boot of a host, given the machine's own clocks.

    The first boot (0) was minutes to 400 days ago; a later one is as old as a reboot takes, 5 to 60 seconds. The
    boot clock is up to an hour ahead of the monotonic one, as after a suspension, so that confusing them shows.
    """
    draw = random.Random(f"{seed}:{host}:{boot}")
    uptime_s = 60.0 * (400 * DAY_S / 60.0) ** draw.random() if boot == 0 else draw.uniform(5.0, 60.0)
    suspended_s = draw.uniform(0.0, 3600.0) if boot == 0 else 0.0
    return ClockOffsets(uptime_s - monotonic_s, uptime_s + suspended_s - boottime_s)


def draw_boot_id(seed: int, host: int, boot: int) -> str:
    """A version 4 UUID, as /proc/sys/kernel/random/boot_id has."""
    digits = f"{random.Random(f'boot id {seed}:{host}:{boot}').getrandbits(128):032x}"
    digits = f"{digits[:12]}4{digits[13:16]}8{digits[17:]}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# Accounts


def passwd_text(machine_text: str) -> str:
    """The machine's accounts, with root's home moved and the ordinary user added."""
    kept = _without(machine_text, "root", USER)
    return f"root:x:0:0:root:{ROOT_HOME}:/bin/bash\n{kept}{USER}:x:{USER_ID}:{USER_ID}::{USER_HOME}:/bin/bash\n"


def group_text(machine_text: str) -> str:
    """The machine's groups and the ordinary user's own."""
    return f"{_without(machine_text, USER)}{USER}:x:{USER_ID}:\n"


def shadow_text() -> str:
    """No account has a password, and none is locked."""
    return "".join(f"{user}:*:19000:0:99999:7:::\n" for user in ("root", USER))


def _without(text: str, *names: str) -> str:
    lines = [line for line in text.splitlines() if line and line.split(":")[0] not in names]
    return "".join(line + "\n" for line in lines)


# Names and keys


def hosts_text(host_count: int) -> str:
    """/etc/hosts of every host."""
    lines = ["127.0.0.1 localhost", *(f"{address(i)} {name(i)}" for i in range(host_count))]
    return "\n".join(lines) + "\n"


def known_hosts_text(public_keys: Sequence[str]) -> str:
    """/etc/ssh/ssh_known_hosts of every host; by host."""
    return "".join(f"{name(i)},{address(i)} {key}\n" for i, key in enumerate(public_keys))


# OpenSSH's configuration


def sshd_config_text(options: Sequence[str] = (), kex: str = "", python_folder: str = "") -> str:
    """A host's sshd; ``options`` go first, since the first line of a keyword wins."""
    path = "/usr/local/bin:/usr/bin:/bin:/usr/games"
    lines = [
        *options,
        "AddressFamily inet",
        "Port 22",
        f"HostKey {HOST_KEY}",
        f"AuthorizedKeysFile {AUTHORIZED_KEYS} .ssh/authorized_keys",
        "StrictModes no",
        "UsePAM no",
        "UseDNS no",
        "PidFile none",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "AllowAgentForwarding yes",
        "PrintMotd no",
        "PrintLastLog no",
        "Subsystem sftp internal-sftp",
        *([f"KexAlgorithms {kex}"] if kex else []),
        *([f"SetEnv PATH={python_folder}:{path}"] if python_folder else []),
    ]
    # A Match block holds until the next one or the end of the file: what belongs to all stands ahead of it.
    first = next((i for i, line in enumerate(lines) if line.lower().startswith("match ")), len(lines))
    last = len(options)
    return "\n".join([*lines[:first], *lines[last:], *lines[first:last]] if first < last else lines) + "\n"


def system_ssh_config_text(kex: str = "") -> str:
    """/etc/ssh/ssh_config of every host: nothing of the machine's own, and the key exchange for logins onward."""
    return f"Host *\n    KexAlgorithms {kex}\n" if kex else "# OpenSSH's defaults\n"


def root_ssh_config_text(kex: str = "") -> str:
    """~/.ssh/config of root on the controller."""
    lines = [
        "Host h*",
        f"User {USER}",
        f"IdentityFile {ROOT_HOME}/.ssh/id_ed25519",
        "StrictHostKeyChecking yes",
        *([f"KexAlgorithms {kex}"] if kex else []),
    ]
    return "\n    ".join(lines) + "\n"


# The host directory


def directory_text(
    public_keys: Sequence[str],
    sites: Sequence[str],
    inner_login: str,
    slice_settings: Mapping[str, object],
    host_fields: Mapping[int, Mapping[str, object]],
) -> str:
    """All hosts but the controller, as YAML, of which JSON is a part. ``host_fields`` adds to single hosts."""
    hosts = {
        name(i): {"address": address(i), "host_key": public_keys[i], "site": sites[i], **host_fields.get(i, {})}
        for i in range(1, len(public_keys))
    }
    settings: dict[str, object] = {"hosts": "@all", "inner_login": inner_login}
    if inner_login == "key":
        settings["inner_identity"] = f"{USER_HOME}/.ssh/id_ed25519"
    data = {
        "ssh_config": False,  # the directory says all
        "defaults": {
            "user": USER,
            "port": 22,
            "identity": f"{ROOT_HOME}/.ssh/id_ed25519",
            "identity_agent": AGENT_SOCKET,
            "known_hosts_file": f"{ROOT_HOME}/.ssh/known_hosts",
            "forward_agent": inner_login == "agent",  # without --slice, too
        },
        "hosts": hosts,
        "slices": {SLICE: settings | dict(slice_settings)},
    }
    return json.dumps(data, indent=1) + "\n"
