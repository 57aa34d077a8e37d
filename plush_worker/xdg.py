"""Where Plush keeps things on this machine, and which machine this is.

Owns the names of the XDG folders and the machine's id; creates folders only in ``private_dir``. Standard library only
and nothing dear: the command line imports this on its way to the first request.
"""

from __future__ import annotations

import os
from pathlib import Path

from plush_worker.errors import ConfigurationError

SOCKET_PATH_BYTES = 104  # macOS; Linux allows 108
_PRIVATE = 0o700


def _base(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # The XDG specification: a relative path is invalid and to be ignored.
    return Path(value) if value.startswith("/") else Path.home() / default


def state_dir() -> Path:
    """``$XDG_STATE_HOME/plush``: output, logs, the service's data. On a disk, kept over reboots."""
    return _base("XDG_STATE_HOME", ".local/state") / "plush"


def config_dir() -> Path:
    """``$XDG_CONFIG_HOME/plush``: hosts.yaml and plush.toml."""
    return _base("XDG_CONFIG_HOME", ".config") / "plush"


def runtime_dir() -> Path | None:
    """``$XDG_RUNTIME_DIR/plush`` where the system provides one; in memory, and gone at logout."""
    value = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(value) / "plush" if value.startswith("/") and os.path.isdir(value) else None


def scratch_dir() -> Path:
    """``/tmp/plush-UID``: the last resort, and where a socket's path must be short."""
    return Path(f"/tmp/plush-{os.getuid()}")


def private_dir(path: Path) -> Path:
    """Make ``path`` (and what is above it) and make sure that it is ours alone. Returns it.

    Raises ConfigurationError when it can't be made, is a link, or belongs to somebody else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=_PRIVATE)
        except FileExistsError:
            pass
        found = path.lstat()
        if path.is_symlink() or not path.is_dir() or found.st_uid != os.getuid():
            raise ConfigurationError(f"{path} is not a folder of ours (owner {found.st_uid}): remove or rename it")
        if found.st_mode & 0o077:
            path.chmod(_PRIVATE)
    except OSError as error:
        raise ConfigurationError(f"can't make the folder {path}: {error.strerror}") from error
    return path


def fits_socket(path: Path) -> bool:
    """Whether a Unix socket can be bound at ``path``."""
    return len(os.fsencode(path)) < SOCKET_PATH_BYTES


def machine_id() -> str:
    """Names this machine (or container) among all: equal for every process that sees the same files and agents.

    Of three parts, because each alone is shared somewhere: the machine id by cloned images and is absent in
    containers, the boot id by containers of one machine, the host name by careless people. PLUSH_MACHINE_ID replaces
    it, for containers that are given the same key files (``docker-compose.yml``).
    """
    if given := os.environ.get("PLUSH_MACHINE_ID", ""):
        return given
    parts = [_line("/etc/machine-id"), _line("/proc/sys/kernel/random/boot_id"), os.uname().nodename]
    return "/".join(part for part in parts if part)


def boot_id() -> str:
    """Names this machine's life since it was started; empty where the kernel doesn't say."""
    return _line("/proc/sys/kernel/random/boot_id")


def process_start(pid: int) -> str:
    """When ``pid`` was started, in the kernel's own ticks: with the pid it names one process. Empty when it's gone."""
    fields = _line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
