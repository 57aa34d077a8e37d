"""The file tree of a host, in two steps: what survives a power-off, and what every boot makes anew.

The keeper's own mount namespace has a tmpfs (``FILES``) that only it sees; ``make_tree`` builds the lasting part of
one host's tree in a mount namespace of its own: its disk, /etc, the machine's folders that must stay visible. A
boot copies that namespace, and ``mount_boot`` puts fresh /proc, /tmp and /run over it. What either mounts is gone
when the last process or descriptor of its namespace is. Both raise OSError that names the call.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import host_files, namespaces
from .errors import TestbedError
from .keeper_spec import HostSpec

LASTING_MASKS = ("/home", "/var/tmp")  # the host's disk
BOOT_MASKS = ("/tmp", "/run", "/dev/shm")
FILES_MIB = 1024  # of all host keys, logs and /etc: far from it
_FULL_FILE = ".full"  # makes the least used size a page: a tmpfs of size 0 has no limit


def visible_below(paths: Sequence[str], masks: Sequence[str]) -> list[str]:
    """Those that masks would hide, shortest first and without what lies below another of them; a mask itself can't
    be shown."""
    found: list[str] = []
    for path in sorted(set(paths), key=len):
        hides = any(path.startswith(mask + "/") for mask in masks)
        if hides and not any(path.startswith(shown + "/") for shown in found):
            found.append(path)
    return found


class FileStore:
    """The keeper's tmpfs: /etc for all hosts, and each host's log and name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, etc: Mapping[str, str]) -> None:
        """Mount it and fill it. /etc is the machine's but for the given files, so that programs find their own."""
        namespaces.mount("plush-testbed", str(self.folder), "tmpfs", data=f"mode=700,size={FILES_MIB}m")
        for below in ("disk", "visible", "logs", "names", "etc"):
            (self.folder / below).mkdir(mode=0o755)
        copied = subprocess.run(
            ["cp", "-a", "/etc/.", str(self.folder / "etc")], capture_output=True, text=True, check=False
        )
        if copied.returncode:
            raise TestbedError(f"/etc could not be copied for the hosts: {copied.stderr.strip()[-500:]}")
        for path, text in etc.items():
            target = self.folder / "etc" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # it may be a link to somewhere else
            target.write_text(text)
            target.chmod(0o640 if path == "shadow" else 0o644)
        shutil.rmtree(self.folder / "etc/ssh/ssh_config.d", ignore_errors=True)
        (self.folder / "etc/nologin").unlink(missing_ok=True)  # sshd would refuse the ordinary user

    def log(self, host: str) -> Path:
        """What the host's sshd says; it outlives a power-off."""
        return self.folder / "logs" / host

    def staged(self, path: str) -> str:
        """Where a visible path is to be found while its own place is masked."""
        return str(self.folder / "visible" / path.strip("/").replace("_", "__").replace("/", "_"))


def make_tree(spec: HostSpec, store: FileStore, disk_mib: int) -> int:
    """Build the lasting part; returns a descriptor of its mount namespace. The caller is inside it afterwards."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    masks = (*LASTING_MASKS, *spec.hidden)
    for path in visible_below(spec.visible, (*masks, *BOOT_MASKS)):
        _make_target(path, store.staged(path))
        namespaces.bind(path, store.staged(path))
    disk = store.folder / "disk"
    namespaces.mount("disk", str(disk), "tmpfs", namespaces.MS_NODEV | namespaces.MS_NOSUID, f"size={disk_mib}m")
    _fill_disk(disk, spec.files)
    namespaces.bind(str(disk / "home"), "/home")
    namespaces.bind(str(disk / "var-tmp"), "/var/tmp")  # what is left at ``disk`` a boot hides; unmounting takes 5 ms
    for folder in spec.hidden:
        namespaces.mount("hidden", folder, "tmpfs", data="mode=755,size=1m")
    for path in visible_below(spec.visible, masks):
        _make_target(store.staged(path), path)
        namespaces.bind(store.staged(path), path)
    namespaces.bind(str(store.folder / "etc"), "/etc")
    own_name = store.folder / "names" / spec.name
    own_name.write_text(spec.name + "\n")
    namespaces.bind(str(own_name), "/etc/hostname")
    namespaces.mount("none", "/etc", flags=namespaces.MS_REMOUNT | namespaces.MS_BIND | namespaces.MS_RDONLY)
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def mount_boot(spec: HostSpec, store: FileStore, disk_mib: int, boot_id: str) -> None:
    """Everything that is fresh at a boot, from inside the host's PID namespace and a copy of its lasting tree."""
    shown = visible_below(spec.visible, BOOT_MASKS)
    # The staged paths are below /run, which is masked first; a descriptor still leads there.
    fds = [os.open(store.staged(path), os.O_PATH | os.O_CLOEXEC) for path in shown]
    namespaces.mount("proc", "/proc", "proc", namespaces.MS_NODEV | namespaces.MS_NOSUID)
    namespaces.mount("tmp", "/tmp", "tmpfs", namespaces.MS_NODEV | namespaces.MS_NOSUID, f"mode=1777,size={disk_mib}m")
    namespaces.mount("run", "/run", "tmpfs", namespaces.MS_NODEV | namespaces.MS_NOSUID, "mode=755,size=64m")
    for folder, mode in (("sshd", 0o755), ("lock", 0o1777), ("shm", 0o1777)):
        os.mkdir(f"/run/{folder}")
        os.chmod(f"/run/{folder}", mode)
    namespaces.bind("/run/shm", "/dev/shm")
    for path, fd in zip(shown, fds, strict=True):
        _make_target(f"/proc/self/fd/{fd}", path)
        namespaces.bind(f"/proc/self/fd/{fd}", path)
        os.close(fd)
    write_file("/run/boot_id", boot_id + "\n", 0o444)
    namespaces.bind("/run/boot_id", "/proc/sys/kernel/random/boot_id")
    write_file(host_files.SSHD_CONFIG, spec.sshd_config, 0o644)
    write_file(host_files.HOST_KEY, spec.host_key, 0o600)


def set_disk_full(mount: str, full: bool, disk_mib: int) -> None:
    """No room for another byte on a host's disk, or its whole size again; takes no memory, whatever the size.

    Acts in the calling process's mount namespace.
    """
    if not full:
        namespaces.mount("none", mount, flags=namespaces.MS_REMOUNT, data=f"size={disk_mib}m")
        Path(mount, _FULL_FILE).unlink(missing_ok=True)
        return
    write_file(f"{mount}/{_FULL_FILE}", "x", 0o600)
    for attempt in range(100):
        numbers = os.statvfs(mount)
        used_bytes = (numbers.f_blocks - numbers.f_bfree) * numbers.f_frsize
        try:
            namespaces.mount("none", mount, flags=namespaces.MS_REMOUNT, data=f"size={used_bytes}")
        except OSError:
            if attempt == 99:  # EINVAL: something was written in between
                raise
        else:
            return


def write_file(path: str, text: str, mode: int) -> None:
    """Write a new file with this mode."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)


def _fill_disk(disk: Path, files: Mapping[str, str]) -> None:
    for below, mode, owner in (("home", 0o755, 0), ("home/root", 0o700, 0), ("var-tmp", 0o1777, 0)):
        _make_folder(disk / below, mode, owner)
    _make_folder(disk / "home" / host_files.USER, 0o755, host_files.USER_ID)
    for path, text in files.items():
        target = Path(str(disk) + path)
        owner = host_files.USER_ID if path.startswith(host_files.USER_HOME + "/") else 0
        if not target.parent.exists():
            _make_folder(target.parent, 0o700, owner)
        write_file(str(target), text, 0o600)
        os.chown(target, owner, owner)


def _make_folder(path: Path, mode: int, owner: int) -> None:
    path.mkdir()
    path.chmod(mode)
    os.chown(path, owner, owner)


def _make_target(source: str, target: str) -> None:
    """Something to mount on: a folder for a folder, a file for anything else."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch(exist_ok=True)
