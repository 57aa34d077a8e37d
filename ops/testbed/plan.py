"""From settings to the keeper's spec: keys drawn, files written out, visible folders and fixtures worked out.

Reads the machine's accounts and asks interpreters where they live; changes nothing. Entry point: ``make_spec``.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import host_files, machine, state_folder
from .errors import BadInput
from .fixtures import Fixture, make_fixture
from .forwarder_client import PathSettings
from .host_keys import KeyPair, make_key
from .host_mounts import BOOT_MASKS, LASTING_MASKS
from .keeper_spec import HostSpec, KeeperSpec
from .matrix import RttMatrix

if TYPE_CHECKING:
    from .testbed import Settings

INNER_LOGINS = ("agent", "key", "none")
EMPTY_FILES = (".profile", ".bashrc", ".hushlogin")
START_AGENT = (
    f"ssh-agent -a {host_files.AGENT_SOCKET} >/dev/null </dev/null 2>&1 && "
    f"SSH_AUTH_SOCK={host_files.AGENT_SOCKET} ssh-add -q {host_files.ROOT_HOME}/.ssh/id_ed25519"
)


class Plan(NamedTuple):
    """What a testbed is made of."""

    spec: KeeperSpec
    visible: list[str]  # on host 0
    notes: list[str]


def make_spec(testbed: str, settings: Settings, matrix: RttMatrix) -> Plan:
    """Raises BadInput for settings that make no sense."""
    check_settings(settings)
    fixture = make_fixture(settings.fixture, settings.host_count)
    user_key = make_key()
    host_keys = [make_key() for _ in range(settings.host_count)]
    public = [key.public for key in host_keys]
    visible = [*visible_paths(settings.visible), str(state_folder.BASE / testbed / state_folder.CONTROL)]
    hosts = [_host(index, settings, fixture, host_keys[index], user_key) for index in range(settings.host_count)]
    controller_files = {
        f"{host_files.ROOT_HOME}/.ssh/id_ed25519": user_key.private,
        f"{host_files.ROOT_HOME}/.ssh/config": host_files.root_ssh_config_text(settings.kex),
        host_files.DIRECTORY: host_files.directory_text(
            public, matrix.sites, settings.inner_login, settings.slice_settings, fixture.host_fields
        ),
    }
    hosts[0] = _as_controller(hosts[0], controller_files, visible)
    spec = KeeperSpec(
        testbed=testbed,
        seed=settings.seed,
        disk_mib=settings.disk_mib,
        sshd=machine.find_program("sshd"),
        etc=_etc(settings, public, user_key.public),
        hosts=hosts,
        paths=PathSettings(
            matrix.one_way_s(), settings.jitter, settings.loss, settings.seed, settings.rate_mbit
        ),
        network=[fault.request() for fault in fixture.network],
    )  # fmt: skip
    return Plan(spec, visible, [note for note in (matrix.note, fixture.note) if note])


def check_settings(settings: Settings) -> None:
    """What has nothing to do with this machine. Raises BadInput."""
    count = settings.host_count
    if not 1 <= count <= host_files.LIMIT:
        raise BadInput(f"{count} hosts: there can be 1 to {host_files.LIMIT}")
    if settings.inner_login not in INNER_LOGINS:
        raise BadInput(f"inner login {settings.inner_login!r}: should be one of {', '.join(INNER_LOGINS)}")
    for what, share in (("loss", settings.loss), ("jitter", settings.jitter)):
        if not 0 <= share <= 1:
            raise BadInput(f"{what} {share}: a share is between 0 and 1")
    if settings.rate_mbit < 0:
        raise BadInput(f"rate {settings.rate_mbit} Mbit/s: should be positive, or 0 for no limit")
    if settings.disk_mib < 1:
        raise BadInput(f"a disk of {settings.disk_mib} MiB: should be at least 1")
    for host, share in settings.cpu_shares.items():
        if share <= 0:
            raise BadInput(f"h{host}: {share} of a core: should be more than 0")
    for host in (*settings.cpu_shares, *settings.pythons):
        if not 0 <= host < count:
            raise BadInput(f"there is no host h{host}; there are h0 to h{count - 1}")


def visible_paths(asked: Iterable[Path]) -> list[str]:
    """What commands on host 0 need of this machine: checkout, interpreter, current folder, TMPDIR and ``asked``."""
    for path in asked:
        if not path.exists():
            raise BadInput(f"{path} is to be visible on host 0, and there is no such path")
    usual = [Path.cwd(), Path(__file__).parents[2], Path(sys.prefix), Path(sys.base_prefix)]
    if os.environ.get("TMPDIR"):
        usual.append(Path(os.environ["TMPDIR"]))
    paths = {os.path.abspath(path) for path in (*usual, *asked) if path.exists()}
    return sorted(paths | {os.path.realpath(path) for path in paths})


def _host(index: int, settings: Settings, fixture: Fixture, key: KeyPair, user_key: KeyPair) -> HostSpec:
    files = {f"{home}/{name}": "" for home in (host_files.ROOT_HOME, host_files.USER_HOME) for name in EMPTY_FILES}
    if settings.inner_login == "key":
        files[f"{host_files.USER_HOME}/.ssh/id_ed25519"] = user_key.private
    python = _find_python(index, settings.pythons[index]) if index in settings.pythons else None
    options = (*fixture.sshd_options.get(index, ()), *settings.sshd_options)
    return HostSpec(
        name=host_files.name(index),
        address=host_files.address(index),
        host_key=key.private,
        sshd_config=host_files.sshd_config_text(options, settings.kex, python.folder if python else ""),
        files=files,
        visible=python.visible if python else [],
        hidden=python.hidden if python else [],
        cpu_share=settings.cpu_shares.get(index),
    )


def _as_controller(host: HostSpec, files: dict[str, str], visible: Sequence[str]) -> HostSpec:
    """Host 0, which has the user's key and agent, and sees what its commands need."""
    return HostSpec(
        name=host.name, address=host.address, host_key=host.host_key, sshd_config=host.sshd_config,
        files={**host.files, **files}, visible=[*host.visible, *visible], start=START_AGENT, cpu_share=host.cpu_share,
    )  # fmt: skip


def _etc(settings: Settings, public_keys: Sequence[str], user_key: str) -> dict[str, str]:
    return {
        "passwd": host_files.passwd_text(Path("/etc/passwd").read_text()),
        "group": host_files.group_text(Path("/etc/group").read_text()),
        "shadow": host_files.shadow_text(),
        "hosts": host_files.hosts_text(settings.host_count),
        "hostname": "",  # each host's own is mounted over it
        "resolv.conf": "# no name server can be reached\n",
        "ssh/ssh_known_hosts": host_files.known_hosts_text(public_keys),
        "ssh/ssh_config": host_files.system_ssh_config_text(settings.kex),
        host_files.AUTHORIZED_KEYS.removeprefix("/etc/"): user_key + "\n",
    }


class _Python(NamedTuple):
    """An interpreter that the ordinary user of a host is to run."""

    folder: str  # goes first on PATH
    visible: list[str]
    hidden: list[str]  # folders that the ordinary user may not pass, hidden and made anew around what is visible


def _find_python(host: int, path: str) -> _Python:
    found = shutil.which(path)
    if found is None:
        raise BadInput(f"h{host}: there is no interpreter {path!r} to give it")
    ask = "import sys; print(sys.base_prefix); print(sys.prefix)"
    ran = subprocess.run([found, "-I", "-c", ask], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BadInput(f"h{host}: {found} can't be used, it said: {ran.stderr.strip()[-200:]}")
    folder = os.path.dirname(os.path.realpath(found))
    if not os.access(f"{folder}/python3", os.X_OK):
        raise BadInput(f"h{host}: there is no python3 beside {os.path.realpath(found)}, which logins could find")
    prefixes = sorted({os.path.realpath(line) for line in ran.stdout.split("\n") if line})
    masks = (*LASTING_MASKS, *BOOT_MASKS)
    closed = [top for prefix in prefixes if (top := _closed_top(prefix)) and top not in masks]
    outside = [prefix for prefix in prefixes if prefix not in {"/", "/usr", "/usr/local"}]
    return _Python(folder, outside, sorted(set(closed)))


def _closed_top(path: str) -> str:
    """The first folder on the way that others may not pass; "" when all are open."""
    for folder in [*reversed(Path(path).parents), Path(path)]:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return str(folder)
    return ""
