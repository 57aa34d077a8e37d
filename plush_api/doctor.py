"""What may keep Plush from working on this machine, and what to do about it: one check each. Used by ``plush doctor``.

A check looks and changes nothing; it answers with findings. ``judge_*`` are pure. Checks that need a server take a
connection to it, so that each can be tried against a server that is not as it should be.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plush_worker import xdg
from plush_worker.errors import PlushError
from plush_worker.node import limits

if TYPE_CHECKING:
    from plush_worker.model import HostEntry, WorkerInfo
    from plush_worker.store.wire import Wire

State = Literal["ok", "warning", "problem"]
OLDEST_REDIS = (6, 2)
CLOCK_WARNING_S, CLOCK_PROBLEM_S = 0.5, 5.0
OPEN_FILES_BASE = 256  # of a worker without hosts
OPEN_FILES_A_ROOT = 4  # a socket, and three pipes where OpenSSH makes the first link
ROOTS_USUAL = 200
STATE_FREE_BYTES = 1 << 30  # what output of runs may take, unless set otherwise
OLDEST_SSH = (7, 9)
_SSH_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``advice``: what to do, empty when nothing."""

    check: str
    state: State
    detail: str
    advice: str = ""


# ---- Redis


def check_redis(wire: Wire) -> list[Finding]:
    """Whether the server answers, is new enough, keeps everything, and tells the same time."""
    try:
        told, memory, clock = (
            wire.call("INFO", "server"),
            wire.pipeline([("INFO", "memory"), ("INFO", "persistence")]),
            _clock_offset_s(wire),
        )
    except PlushError as error:
        return [Finding("redis", "problem", str(error), "start it, or set PLUSH_REDIS_URL to the one that runs")]
    for reply in (told, *memory):
        if not isinstance(reply, bytes):
            advice = "give this user INFO, TIME and CONFIG|GET, or another PLUSH_REDIS_PASSWORD_FILE"
            return [Finding("redis", "problem", f"the server refuses INFO: {reply}", advice)]
    fields = info_fields(b"\n".join((told, *memory)))
    return [judge_version(fields), *judge_keeping(fields), judge_clock(clock)]


def info_fields(reply: bytes) -> dict[str, str]:
    """The fields of an INFO reply."""
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def judge_version(fields: Mapping[str, str]) -> Finding:
    """Redis 6.2 or newer, or Valkey, which says which Redis it is like."""
    version = fields.get("redis_version", "0")
    name = f"{fields.get('server_name', 'redis')} {fields.get('valkey_version', version)}"
    if _numbers(version) < OLDEST_REDIS:
        wanted = ".".join(map(str, OLDEST_REDIS))
        return Finding("redis", "problem", f"{name} is too old", f"install Redis {wanted} or newer, or Valkey")
    return Finding("redis", "ok", name)


def judge_keeping(fields: Mapping[str, str]) -> list[Finding]:
    """Nothing is evicted, and what is written outlives the server."""
    findings = []
    policy = fields.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        advice = "CONFIG SET maxmemory-policy noeviction, and in redis.conf: else runs vanish when memory is short"
        findings.append(Finding("redis eviction", "problem", f"maxmemory-policy is {policy}", advice))
    limit, used = int(fields.get("maxmemory", 0)), int(fields.get("used_memory", 0))
    if limit and used > 0.8 * limit:
        advice = "raise maxmemory, or remove runs: at the limit nothing can be submitted"
        findings.append(Finding("redis memory", "warning", f"{used} of {limit} bytes are used", advice))
    if fields.get("aof_enabled") != "1":
        advice = "set `appendonly yes`: else a restart of the server forgets runs, tokens and who owns which hosts"
        findings.append(Finding("redis durability", "warning", "appendonly is off", advice))
    if fields.get("aof_last_write_status", "ok") != "ok":
        advice = "look at the server's log and at its disk"
        findings.append(Finding("redis durability", "problem", "the last write to the append-only file failed", advice))
    return findings or [Finding("redis durability", "ok", "append-only file, noeviction")]


def judge_clock(offset_s: float) -> Finding:
    """This machine's clock against the server's: leases and times of runs are the server's."""
    detail = f"{offset_s:+.3f} s against the Redis server"
    if abs(offset_s) < CLOCK_WARNING_S:
        return Finding("clock", "ok", detail)
    state: State = "problem" if abs(offset_s) >= CLOCK_PROBLEM_S else "warning"
    return Finding("clock", state, detail, "synchronise both clocks (chrony, systemd-timesyncd)")


def _clock_offset_s(wire: Wire) -> float:
    before_s = time.time()
    reply = wire.call("TIME")
    after_s = time.time()
    if not isinstance(reply, list):
        return 0.0
    return (before_s + after_s) / 2 - (int(reply[0]) + int(reply[1]) / 1e6)


# ---- workers


def judge_workers(workers: Sequence[WorkerInfo], now_s: float) -> list[Finding]:
    """There are some, all speak this version's protocol, and they have room."""
    if not workers:
        return [Finding("workers", "problem", "none is running", "start one: plush worker start, or plush up")]
    findings = []
    for worker in workers:
        if not limits.OLDEST_PROTOCOL_VERSION <= worker.protocol <= limits.PROTOCOL_VERSION:
            detail = f"{worker.name} speaks protocol {worker.protocol}, this command {limits.PROTOCOL_VERSION}"
            findings.append(Finding("workers", "problem", detail, "upgrade the older of the two, and restart it"))
        elif worker.load >= worker.capacity:
            detail = f"{worker.name} has {worker.load} of {worker.capacity} hosts"
            findings.append(Finding("workers", "warning", detail, "start another one: plush worker start"))
    hosts = sum(worker.load for worker in workers)
    oldest_s = max(now_s - worker.started_at for worker in workers)
    detail = f"{len(workers)} with {hosts} hosts, the oldest up for {max(0.0, oldest_s):.0f} s"
    return findings or [Finding("workers", "ok", detail)]


# ---- this machine


def judge_open_files(soft: int, hard: int) -> Finding:
    """Descriptors for a worker's links."""
    wanted = OPEN_FILES_BASE + OPEN_FILES_A_ROOT * ROOTS_USUAL
    roots = max(0, soft - OPEN_FILES_BASE) // OPEN_FILES_A_ROOT
    detail = f"ulimit -n is {soft}: enough for links to {roots} subtree roots from one worker"
    if soft >= wanted:
        return Finding("open files", "ok", detail)
    more = f"ulimit -n {hard}" if hard > soft else "raise nofile in /etc/security/limits.conf"
    return Finding("open files", "warning", detail, f"{more} before starting workers")


def check_state_folder(folder: Path) -> list[Finding]:
    """Output of runs goes here: it must be ours, writable, and not full."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        advice = f"chown it to {os.getuid()}, or set PLUSH_STATE_DIR"
        return [Finding("state folder", "problem", f"{existing} can't be written to by uid {os.getuid()}", advice)]
    findings = []
    if existing == folder and folder.stat().st_mode & 0o077:
        mode = stat.S_IMODE(folder.stat().st_mode)
        advice = f"chmod 700 {folder}: output of runs is for its owner"
        findings.append(Finding("state folder", "problem", f"{folder} has mode {mode:04o}", advice))
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < STATE_FREE_BYTES:
        detail = f"{free_bytes >> 20} MiB are free at {existing}"
        findings.append(
            Finding("state folder", "warning", detail, "make room: hosts wait while output can't be stored")
        )
    return findings or [Finding("state folder", "ok", f"{folder}, {free_bytes >> 30} GiB free")]


def check_private_files(paths: Iterable[Path]) -> list[Finding]:
    """Keys, passwords and tokens: there, ours, and for nobody else's eyes."""
    findings, seen = [], 0
    for path in paths:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            findings.append(Finding("private files", "problem", f"{path}: {error.strerror}", "make it readable for us"))
            continue
        seen += 1
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in (os.getuid(), 0):
            detail, advice = f"{path} belongs to uid {found.st_uid}", f"chown {os.getuid()} {path}"
            findings.append(Finding("private files", "problem", detail, advice))
        elif mode & 0o077:
            detail = f"{path} has mode {mode:04o}: others can read it"
            findings.append(Finding("private files", "problem", detail, f"chmod 600 {path}"))
    return findings or [Finding("private files", "ok", f"{seen} keys and secrets, for their owner alone")]


def private_files(state: Path, entries: Iterable[HostEntry] = ()) -> list[Path]:
    """Where keys, passwords and tokens of this person and service are."""
    home = Path.home() / ".ssh"
    files = [home / name for name in ("id_rsa", "id_ecdsa", "id_ed25519")]
    files += [state / "flower.password", state / "service" / "redis.password", state / "service" / "admin.token"]
    named = (os.environ.get(name, "") for name in os.environ if name.startswith("PLUSH_") and name.endswith("_FILE"))
    files += [Path(name) for name in named if name and not name.endswith((".pem", ".crt", ".log"))]
    files += [Path(name).expanduser() for entry in entries for name in entry.identity_files]
    return list(dict.fromkeys(files))


def check_programs() -> list[Finding]:
    """OpenSSH's client is what makes links that asyncssh doesn't, and looks up a person's configuration."""
    ssh = shutil.which("ssh")
    if ssh is None:
        advice = "install openssh-client: hosts are looked up with it, and some links are made with it"
        return [Finding("ssh", "problem", "no ssh on PATH", advice)]
    try:
        told = subprocess.run(
            [ssh, "-V"], capture_output=True, text=True, check=False, timeout=_SSH_ANSWER_S, stdin=subprocess.DEVNULL
        ).stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("ssh", "problem", f"{ssh} doesn't run: {error}", "reinstall openssh-client")]
    return [judge_ssh(ssh, told)]


def judge_ssh(path: str, told: str) -> Finding:
    """``told`` is what ``ssh -V`` says."""
    version = told.partition("OpenSSH_")[2]
    if not version:
        return Finding("ssh", "warning", f"{path} is not OpenSSH: {told}", "put OpenSSH's ssh first on PATH")
    if _numbers(version) < OLDEST_SSH:
        wanted = ".".join(map(str, OLDEST_SSH))
        return Finding("ssh", "warning", f"{path}: {told}", f"OpenSSH before {wanted} can't pass signals on: upgrade")
    return Finding("ssh", "ok", f"{path}: {told.partition(',')[0]}")


def check_server_program() -> Finding:
    """What ``plush up`` and a ``plush run`` without a service start."""
    from plush_worker.store.server import find_server

    try:
        return Finding("redis program", "ok", str(find_server()))
    except PlushError as error:
        return Finding("redis program", "warning", str(error), "needed by plush up only; install redis-server")


def check_settings() -> Finding:
    """Settings of the environment and of plush.toml can be read, all of them."""
    from plush_api.api_settings import load_api_settings
    from plush_worker.config import load_settings

    try:
        load_settings()
        load_api_settings()
    except PlushError as error:
        return Finding("settings", "problem", str(error), "mend it; docs/operations.md lists all settings")
    file = xdg.config_dir() / "plush.toml"
    return Finding("settings", "ok", str(file) if file.is_file() else "environment and defaults")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 9.2p1 -> (9, 2)."""
    numbers = []
    for word in version.replace("p", ".").split("."):
        digits = word[: len(word) - len(word.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != word:
            break
    return tuple(numbers)
