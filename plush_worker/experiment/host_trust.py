"""Host keys scanned by ``ssh-keyscan``, compared with what is known, and recorded in known_hosts.

A scan proves nothing: whoever answers is believed. So this module only finds out and, when told to, records; asking
is up to the caller. A changed key is never recorded unless ``record`` is told to replace. Entry points: ``scan``,
``compare``, ``record``.
"""

from __future__ import annotations

import base64
import fcntl
import os
import subprocess
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from plush_worker.errors import PeerError
from plush_worker.mesh.host_keys import fingerprint, known_hosts_name
from plush_worker.model import HostEntry

from .known_hosts import KnownHosts
from .ssh_config import find_program, home_folder

_MORE_S = 20  # beyond the timeout of one connection: keyscan takes the key types one after the other


class KeysNotRecorded(PeerError):
    """Host keys could not be written down; the message says where and why."""

    code = "keys_not_recorded"


class Status(StrEnum):
    """What a scan says about a host."""

    KNOWN = "known"
    NEW = "new"
    CHANGED = "changed"
    REVOKED = "revoked"
    UNREACHABLE = "unreachable"


class Scanned(NamedTuple):
    """One host's scan, compared with what was known."""

    entry: HostEntry
    status: Status
    keys: tuple[str, ...] = ()  # "key-type base64" as scanned
    old_keys: tuple[str, ...] = ()  # CHANGED: those on record
    error: str = ""  # UNREACHABLE: what was tried and what came back


def scan(entries: Sequence[HostEntry], timeout_s: int) -> list[Scanned]:
    """What ``ssh-keyscan`` gets from each host, in the order of ``entries``, all at once.

    Hosts behind a jump host or a ProxyCommand can't be scanned and say what to do instead.
    """
    program = find_program("ssh-keyscan")
    groups: dict[tuple[int, str], list[HostEntry]] = {}
    for entry in entries:
        if not entry.proxy_jump and not entry.proxy_command:
            groups.setdefault((entry.port, entry.address_family), []).append(entry)
    started = []
    for group, members in groups.items():
        port, family = group
        options = {"inet": ["-4"], "inet6": ["-6"]}.get(family, [])
        command = [program, "-T", str(timeout_s), "-p", str(port), *options, "-f", "-"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace")
        started.append((process, group, members))
    found: dict[tuple[str, int], list[str]] = {}
    messages: dict[tuple[int, str], str] = {}
    try:
        for process, group, members in started:
            addresses = "\n".join(dict.fromkeys(entry.address for entry in members)) + "\n"
            try:
                output, messages[group] = process.communicate(addresses, timeout=3 * timeout_s + _MORE_S)
            except subprocess.TimeoutExpired:
                continue  # its hosts are reported as having shown no key
            for address, keys in read_scan(output).items():
                found[address, group[0]] = keys
    finally:
        for process, _, _ in started:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return [
        _scanned(entry, found, messages.get((entry.port, entry.address_family), ""), timeout_s) for entry in entries
    ]


def read_scan(output: str) -> dict[str, list[str]]:
    """Address -> ``key-type base64`` lines, out of the text of ``ssh-keyscan``."""
    found: dict[str, list[str]] = {}
    for line in output.split("\n"):
        words = line.split()
        if len(words) < 3 or words[0].startswith("#"):
            continue
        name = words[0]
        address = name[1:].partition("]")[0] if name.startswith("[") else name
        found.setdefault(address.lower(), []).append(f"{words[1]} {words[2]}")
    return found


def _scanned(entry: HostEntry, found: Mapping[tuple[str, int], list[str]], messages: str, timeout_s: int) -> Scanned:
    if entry.proxy_jump or entry.proxy_command:
        way = f"jump host {entry.proxy_jump}" if entry.proxy_jump else "a ProxyCommand"
        configuration = f" -F {entry.config_file}" if entry.config_file not in ("", "none") else ""
        advice = (
            f"ssh-keyscan can't go through {way}: connect once with ssh{configuration} {entry.name} and check the key"
        )
        return Scanned(entry, Status.UNREACHABLE, error=advice)
    keys = tuple(found.get((entry.address.lower(), entry.port), ()))
    if not keys:
        said = next((line for line in messages.split("\n") if entry.address in line and not line.startswith("#")), "")
        what = f"ssh-keyscan -p {entry.port} {entry.address} got no key within {timeout_s} s"
        return Scanned(entry, Status.UNREACHABLE, error=what + (f": {said.strip()[:300]}" if said else ""))
    return compare(entry, keys)


def compare(entry: HostEntry, keys: Sequence[str]) -> Scanned:
    """Scanned keys against the entry's. One key on record that is shown again makes the host a known one."""
    plain = tuple(line for line in entry.known_hosts if not line.startswith("@"))
    revoked = {line.partition(" ")[2] for line in entry.known_hosts if line.startswith("@revoked ")}
    if revoked & set(keys):
        return Scanned(entry, Status.REVOKED, tuple(keys))
    if set(plain) & set(keys):
        return Scanned(entry, Status.KNOWN, tuple(keys))
    return Scanned(entry, Status.CHANGED if plain else Status.NEW, tuple(keys), plain)


def fingerprint_of(key: str) -> str:
    """``ssh-ed25519 SHA256:...`` of ``ssh-ed25519 AAAA...``."""
    key_type, _, text = key.partition(" ")
    return f"{key_type} {fingerprint(base64.b64decode(text))}"


def record(host: Scanned, *, replace: bool = False) -> str:
    """Appends the host's keys to its known_hosts file; returns the file's path.

    With ``replace`` the keys on record there go first (``ssh-keygen -R``, which keeps a copy named .old). Raises
    KeysNotRecorded; also when keys have changed and ``replace`` wasn't said, or when the old ones are elsewhere.
    """
    name = known_hosts_name(host.entry)
    path = host.entry.known_hosts_file or os.path.join(home_folder(), ".ssh", "known_hosts")
    if host.status not in (Status.NEW, Status.CHANGED) or (host.status == Status.CHANGED and not replace):
        raise KeysNotRecorded(f"{host.entry.name}: its keys are {host.status}, so nothing is recorded")
    if host.status == Status.CHANGED:
        _remove(host, name, path)
    lines = "".join(f"{name} {key}\n" for key in host.keys)
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as record_host_key does; gone with the descriptor
            text = file.read() or b""
            separator = b"" if not text or text.endswith(b"\n") else b"\n"
            file.write(separator + lines.encode())
    except OSError as error:
        raise KeysNotRecorded(f"{host.entry.name}: its keys can't be recorded in {path}: {error.strerror}") from error
    return path


def _remove(host: Scanned, name: str, path: str) -> None:
    here = KnownHosts.read([path]).lines_for(host.entry.address, host.entry.port, host.entry.host_key_alias)
    elsewhere = [key for key in host.old_keys if key not in here]
    if elsewhere:
        raise KeysNotRecorded(
            f"{host.entry.name}: the key on record, {fingerprint_of(elsewhere[0])}, isn't in {path} but in the host "
            "directory or another known_hosts file: change it there"
        )
    command = [find_program("ssh-keygen"), "-R", name, "-f", path]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KeysNotRecorded(f"{host.entry.name}: {' '.join(command)} failed: {done.stderr.strip()[:300]}")
