"""Host keys of a worker's own links: is this one trusted, which types to ask for, how to record a new one.

Owns the decision (pure, but for the clock of certificates) and the append to a known_hosts file. Never scans or asks.
Entry points: ``judge``, ``host_key_algorithms``, ``record_host_key``.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from plush_worker.errors import PeerError
from plush_worker.model import HostEntry

_CERTIFICATE_SUFFIX = "-cert-v01@openssh.com"
_HOST_CERTIFICATE = 2  # SSH_CERT_TYPE_HOST, PROTOCOL.certkeys

# In OpenSSH's order of preference, without its security-key types first: those aren't host keys in practice.
_PLAIN_ALGORITHMS = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "rsa-sha2-512", "rsa-sha2-256",
)  # fmt: skip
_CERTIFICATE_ALGORITHMS = tuple(name + _CERTIFICATE_SUFFIX for name in _PLAIN_ALGORITHMS)
_LEGACY_ALGORITHMS = ("ssh-rsa", "ssh-rsa-cert-v01@openssh.com")  # SHA-1 signatures: only when asked for
_SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")}  # key type -> algorithms; else the same name


class HostKeyNotRecorded(PeerError):
    """A new host key could not be written down, or the file holds another one by now."""

    code = "host_key"


class Trust(StrEnum):
    """What is to be thought of a host key."""

    TRUSTED = "trusted"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"
    BAD_CERTIFICATE = "bad certificate"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``key`` is the plain key as ``key-type base64``; ``why`` explains whatever isn't TRUSTED."""

    trust: Trust
    key: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Pins:
    """Parsed ``HostEntry.known_hosts``; keys are binary."""

    plain: frozenset[bytes]
    authorities: frozenset[bytes]
    revoked: frozenset[bytes]
    plain_types: tuple[str, ...]  # in the order of the lines


@lru_cache(maxsize=4096)
def parse_pins(lines: tuple[str, ...]) -> Pins:
    """From lines ``[@cert-authority|@revoked] key-type base64 [comment]``. Raises ValueError naming a bad line."""
    found: dict[str, list[bytes]] = {"": [], "@cert-authority": [], "@revoked": []}
    types: list[str] = []
    for line in lines:
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        try:
            blob = base64.b64decode(words[1], validate=True)
            found[marker].append(blob)
        except (IndexError, KeyError, binascii.Error):
            raise ValueError(f"no host key line: {line[:80]!r}") from None
        if not marker and words[0] not in types:
            types.append(words[0])
    plain, authorities, revoked = (frozenset(blobs) for blobs in found.values())
    return Pins(plain, authorities, revoked, tuple(types))


def key_line(blob: bytes) -> str:
    """``key-type base64`` of a binary public key."""
    return f"{key_type(blob)} {base64.b64encode(blob).decode()}"


def key_type(blob: bytes) -> str:
    """The type a binary public key names itself; empty when it is none."""
    size = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + size].decode("ascii", "replace") if 4 + size <= len(blob) else ""


def fingerprint(blob: bytes) -> str:
    """As ``ssh-keygen -l`` prints it: ``SHA256:...``."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def judge(pins: Pins, blob: bytes, principal: str) -> Verdict:
    """What to think of the key or certificate that a host showed. ``principal``: the name a certificate must be for."""
    if key_type(blob).endswith(_CERTIFICATE_SUFFIX):
        return _judge_certificate(pins, blob, principal)
    line = key_line(blob)
    if blob in pins.revoked:
        return Verdict(Trust.REVOKED, line, f"its key {fingerprint(blob)} is marked @revoked")
    if blob in pins.plain:
        return Verdict(Trust.TRUSTED, line)
    shown = f"its {key_type(blob)} key {fingerprint(blob)}"
    if pins.plain:
        known = ", ".join(sorted(fingerprint(key) for key in pins.plain))
        return Verdict(Trust.CHANGED, line, f"{shown} is not the one on record ({known})")
    if pins.authorities:
        return Verdict(Trust.UNKNOWN, line, f"{shown} is unknown and it showed no certificate of a known authority")
    return Verdict(Trust.UNKNOWN, line, f"{shown} is unknown")


def _judge_certificate(pins: Pins, blob: bytes, principal: str) -> Verdict:
    import asyncssh  # only certificates need its parser and its check of the authority's signature

    try:
        text = base64.b64encode(blob).decode()
        certificate = asyncssh.import_certificate(f"{key_type(blob)} {text}")
        authority = certificate.signing_key.public_data  # type: ignore[attr-defined]
        plain = certificate.key.public_data
        names: Sequence[str] = certificate.principals  # type: ignore[attr-defined]
    except (asyncssh.KeyImportError, AttributeError) as error:
        return Verdict(Trust.BAD_CERTIFICATE, "", f"its host certificate can't be read: {error}")
    line = key_line(plain)
    if authority in pins.revoked or plain in pins.revoked:
        return Verdict(Trust.REVOKED, line, "its certificate's key or authority is marked @revoked")
    if authority not in pins.authorities:  # as ssh does: then the key within must stand for itself
        return judge(pins, plain, principal)
    try:
        certificate.validate(_HOST_CERTIFICATE, None)  # type: ignore[attr-defined]
    except ValueError as error:
        return Verdict(Trust.BAD_CERTIFICATE, line, f"its host certificate is refused: {error}")
    if names and not any(_matches(principal, name) for name in names):
        listed = ", ".join(names[:5])
        return Verdict(Trust.BAD_CERTIFICATE, line, f"its host certificate is for {listed}, not for {principal}")
    return Verdict(Trust.TRUSTED, line)


def _matches(name: str, pattern: str) -> bool:
    """OpenSSH's patterns: ``*`` and ``?`` only."""
    expression = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern.lower())
    return re.fullmatch(expression, name.lower(), re.DOTALL) is not None


@lru_cache(maxsize=256)
def host_key_algorithms(plain_types: tuple[str, ...], has_authorities: bool, wanted: str = "") -> tuple[str, ...]:
    """Signature algorithms to offer, the pinned keys' first; all others stay offered, so that a host whose key changed
    its type is reported as changed. ``wanted`` is HostKeyAlgorithms of ssh_config(5). Raises ValueError when nothing
    is left.
    """
    offered = _wanted_algorithms(wanted, (*_CERTIFICATE_ALGORITHMS, *_PLAIN_ALGORITHMS))
    certificates = [name for name in offered if name.endswith(_CERTIFICATE_SUFFIX)] if has_authorities else []
    plain = [name for name in offered if not name.endswith(_CERTIFICATE_SUFFIX)]
    pinned = [name for kind in plain_types for name in plain if name in _SIGNATURES.get(kind, (kind,))]
    result = tuple(dict.fromkeys((*certificates, *pinned, *plain)))
    if not result:
        raise ValueError(f"HostKeyAlgorithms {wanted!r} leaves nothing to offer")
    return result


def _wanted_algorithms(wanted: str, default: Sequence[str]) -> list[str]:
    known = (*default, *_LEGACY_ALGORITHMS)
    if not wanted:
        return list(default)
    how, patterns = (wanted[0], wanted[1:]) if wanted[0] in "+-^" else ("", wanted)
    matched = [name for pattern in patterns.split(",") for name in known if _matches(name, pattern.strip())]
    if how == "+":
        return [*default, *matched]
    if how == "^":
        return [*matched, *default]
    if how == "-":
        return [name for name in default if name not in matched]
    return matched


def known_hosts_name(entry: HostEntry) -> str:
    """Under which name known_hosts holds the host's key: the alias, the address, or ``[address]:port``."""
    if entry.host_key_alias:
        return entry.host_key_alias
    return entry.address if entry.port == 22 else f"[{entry.address}]:{entry.port}"


def record_host_key(entry: HostEntry, line: str) -> None:
    """Appends ``name key-type base64`` to ``entry.known_hosts_file`` (made, 0600, when missing), once, under a lock.

    Raises HostKeyNotRecorded when there is no such file to write, or when it holds another key for that name by now:
    of two links that meet a new host at once, the second must not accept a different key.
    """
    path, name = entry.known_hosts_file, known_hosts_name(entry)
    if not path:
        raise HostKeyNotRecorded("accept_new needs a known_hosts_file to record the key in: name one for the slice")
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # gone with the descriptor
            text = file.read() or b""
            if _is_recorded(text.decode("utf-8", "replace"), name, line, path):
                return
            separator = b"" if not text or text.endswith(b"\n") else b"\n"
            file.write(separator + f"{name} {line}\n".encode())  # one write: a reader sees all of the line or nothing
    except OSError as error:
        raise HostKeyNotRecorded(f"its new key can't be recorded in {path}: {error.strerror}") from error


def _is_recorded(text: str, name: str, line: str, path: str) -> bool:
    others = []
    for recorded in text.splitlines():
        words = recorded.split()
        if len(words) < 3 or words[0].startswith(("#", "@")) or not _names(words[0], name):
            continue
        if " ".join(words[1:3]) == line:
            return True
        others.append(words[1])
    if others:
        raise HostKeyNotRecorded(f"its key differs from the one that {path} holds for {name} ({', '.join(others)})")
    return False


def _names(patterns: str, name: str) -> bool:
    if not patterns.startswith("|1|"):
        return name in patterns.split(",")
    try:
        salt, digest = (base64.b64decode(part) for part in patterns[3:].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
