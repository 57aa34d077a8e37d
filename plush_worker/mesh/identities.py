"""Which keys to offer a host, in ssh's order: files, certificates and the user's SSH agent.

Owns parsed key files (kept between connects: a mesh opens hundreds of links with the same key) and the requests to the
agent. Private keys stay in this process. Entry point: ``KeyRing.offers``.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from plush_worker.mesh.host_keys import fingerprint
from plush_worker.model import HostEntry

_AGENT_LIST_S = 5.0  # how long an agent's list of keys is believed
_AGENT_REQUESTS_AT_ONCE = 16
_MAX_AGENT_MESSAGE_BYTES = 256 * 1024  # ssh-agent's own limit
_REQUEST_IDENTITIES, _IDENTITIES_ANSWER = 11, 12
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_OPENSSH_MAGIC = b"openssh-key-v1\0"


class AgentError(ValueError):
    """The SSH agent can't be asked, or refuses. A ValueError, which asyncssh takes for: try the next key."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One parsed identity file. ``public``: binary, empty when unknown; ``key``: None without the private half."""

    path: str
    public: bytes
    key: asyncssh.SSHKey | None
    problem: str = ""


@dataclass(slots=True)
class Report:
    """What was offered and what could not be, for the error message."""

    offered: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


class Agent:
    """Requests to one SSH agent. Each has a connection of its own: an abandoned one can't confuse the next."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._slots = asyncio.Semaphore(_AGENT_REQUESTS_AT_ONCE)
        self._lock = asyncio.Lock()
        self._keys: list[tuple[bytes, bytes]] = []
        self._listed_at_s = -_AGENT_LIST_S

    async def keys(self) -> list[tuple[bytes, bytes]]:
        """(binary public key or certificate, comment) of all that it holds. Raises AgentError."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() - self._listed_at_s >= _AGENT_LIST_S:
                self._keys = _parse_identities(await self._request(bytes((_REQUEST_IDENTITIES,)), _IDENTITIES_ANSWER))
                self._listed_at_s = loop.time()
            return self._keys

    async def sign(self, key_blob: bytes, data: bytes, flags: int = 0) -> bytes:
        """A signature over ``data``. Raises AgentError. The name and arguments are what SSHAgentKeyPair calls."""
        request = bytes((_SIGN_REQUEST,)) + _string(key_blob) + _string(data) + flags.to_bytes(4, "big")
        return _strings(await self._request(request, _SIGN_RESPONSE), 1)[0][0]

    async def _request(self, message: bytes, expected: int) -> bytes:
        async with self._slots:
            writer = None
            try:
                reader, writer = await asyncio.open_unix_connection(self.path)
                writer.write(_string(message))
                size = int.from_bytes(await reader.readexactly(4), "big")
                if not 0 < size <= _MAX_AGENT_MESSAGE_BYTES:
                    raise AgentError(f"the SSH agent at {self.path} answered {size} bytes")
                answer = await reader.readexactly(size)
            except (OSError, EOFError) as error:
                raise AgentError(f"the SSH agent at {self.path}: {error}") from error
            finally:
                if writer is not None:
                    writer.close()
        if answer[0] != expected:
            raise AgentError(f"the SSH agent at {self.path} refused (answer {answer[0]})")
        return answer[1:]


class KeyRing:
    """Keys for all links of one loop."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[tuple[int, int, int], KeyFile]] = {}
        self._certificates: dict[str, tuple[tuple[int, int, int], Any]] = {}
        self._agents: dict[str, Agent] = {}

    def agent_of(self, entry: HostEntry) -> Agent | None:
        """The agent that serves an entry, None when it has none."""
        path = agent_path(entry)
        if not path:
            return None
        return self._agents.setdefault(path, Agent(path))

    async def offers(self, entry: HostEntry, report: Report) -> AsyncIterator[asyncssh.SSHKeyPair]:
        """Key pairs to try, one after the other; fresh objects, since asyncssh notes the signature algorithm on them.

        As ssh: certificates, keys of the agent that the entry's files name, the agent's other keys (not with
        IdentitiesOnly), keys only in files.
        """
        agent = self.agent_of(entry)
        held: dict[bytes, bytes] = {}
        if agent is not None:
            try:
                held = dict(await agent.keys())
            except AgentError as error:
                report.skipped.append(str(error))
        files = []
        for path in entry.identity_files:
            file = self._file(path)
            if file is not None:
                files.append(file)
            if file is None or (file.problem and file.public not in held):
                report.skipped.append(f"{path}: {file.problem if file is not None else 'no such file'}")
        offered: set[bytes] = set()
        for label, pair in self._in_order(entry, files, agent, held):
            if pair.public_data not in offered:
                offered.add(pair.public_data)
                report.offered.append(f"{label} ({pair.algorithm.decode()} {fingerprint(pair.public_data)})")
                yield pair

    def _in_order(
        self, entry: HostEntry, files: Sequence[KeyFile], agent: Agent | None, held: dict[bytes, bytes]
    ) -> list[tuple[str, asyncssh.SSHKeyPair]]:
        pairs: list[tuple[str, asyncssh.SSHKeyPair]] = []
        certificates = [self._certificate(path) for path in entry.certificate_files]
        certificates += [self._certificate(f"{file.path}-cert.pub") for file in files]
        for certificate in filter(None, certificates):
            public = certificate.key.public_data
            by_file = next((file for file in files if file.key is not None and file.public == public), None)
            if by_file is not None:
                pairs.append((f"{by_file.path} with certificate", _file_pair(by_file, certificate)))
            elif agent is not None and public in held:
                label, pair = _agent_offer(agent, public, held[public])
                pair.set_certificate(certificate)
                pairs.append((f"{label} with certificate", pair))
        if agent is not None:
            named = [file.public for file in files if file.public in held]
            others = [] if entry.identities_only else [blob for blob in held if blob not in named]
            pairs += [_agent_offer(agent, blob, held[blob]) for blob in (*named, *others)]
        only_here = [file for file in files if file.key is not None and file.public not in held]
        return pairs + [(file.path, _file_pair(file, None)) for file in only_here]

    def _file(self, path: str) -> KeyFile | None:
        """The parsed identity file, None when it and its public half are missing."""
        stamp = _stamp(path) or _stamp(path + ".pub")
        if stamp is None:
            return None
        cached = self._files.get(path)
        if cached is None or cached[0] != stamp:
            cached = self._files[path] = (stamp, _read_key_file(path))
        return cached[1]

    def _certificate(self, path: str) -> Any:
        stamp = _stamp(path)
        if stamp is None:
            return None
        cached = self._certificates.get(path)
        if cached is None or cached[0] != stamp:
            try:
                certificate: Any = asyncssh.read_certificate(path)
            except (OSError, ValueError):
                certificate = None
            cached = self._certificates[path] = (stamp, certificate)
        return cached[1]


def agent_path(entry: HostEntry) -> str:
    """The socket of the entry's SSH agent, empty for none. An empty ``identity_agent`` means SSH_AUTH_SOCK."""
    value = entry.identity_agent
    if value == "none":
        return ""
    if value in ("", "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK", "")
    return os.path.expanduser(value)


def _read_key_file(path: str) -> KeyFile:
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError as error:
        public = _read_public(path + ".pub")
        return KeyFile(
            path, public, None, "" if public and isinstance(error, FileNotFoundError) else str(error.strerror)
        )
    try:
        key = asyncssh.import_private_key(data)
        return KeyFile(path, key.public_data, key)
    except asyncssh.KeyEncryptionError as error:
        return KeyFile(path, _read_public(path + ".pub"), None, f"can't be decrypted: {error}")
    except asyncssh.KeyImportError as error:
        public = _public_half(data) or _read_public(path + ".pub")
        if "passphrase" in str(error).lower():
            return KeyFile(path, public, None, f"is encrypted and no SSH agent holds it: ssh-add {path}")
        if public and _read_public(path):
            return KeyFile(path, public, None, "is a public key and no SSH agent holds its private half")
        return KeyFile(path, public, None, f"can't be read as a key: {error}")


def _read_public(path: str) -> bytes:
    try:
        return asyncssh.read_public_key(path).public_data
    except (OSError, ValueError):
        return b""


def _public_half(data: bytes) -> bytes:
    """The public key in clear at the head of an encrypted OpenSSH key file (PROTOCOL.key); or of a public key file."""
    try:
        lines = data.split(b"-----")[2]
        blob = base64.b64decode(b"".join(lines.split()))
        if not blob.startswith(_OPENSSH_MAGIC):
            return b""
        _, rest = _strings(blob[len(_OPENSSH_MAGIC) :], 3)
        return _strings(rest[4:], 1)[0][0]
    except (ValueError, IndexError):
        pass
    try:
        return asyncssh.import_public_key(data).public_data
    except ValueError:
        return b""


def _file_pair(file: KeyFile, certificate: Any) -> asyncssh.SSHKeyPair:
    pairs = asyncssh.load_keypairs([(file.key, certificate)] if certificate else [file.key])  # type: ignore[list-item]
    return pairs[0]


def _agent_offer(agent: Agent, blob: bytes, comment: bytes) -> tuple[str, asyncssh.SSHAgentKeyPair]:
    algorithm = _strings(blob, 1)[0][0]
    pair = asyncssh.SSHAgentKeyPair(agent, algorithm, blob, comment)  # type: ignore[arg-type]
    return f"agent key {comment.decode('utf-8', 'replace')}", pair


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _strings(data: bytes, count: int) -> tuple[list[bytes], bytes]:
    """The first ``count`` SSH strings and the rest. Raises AgentError on short data."""
    found, at = [], 0
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + size > len(data):
            raise AgentError("a message of the SSH agent is cut short")
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found, data[at:]


def _parse_identities(data: bytes) -> list[tuple[bytes, bytes]]:
    count = int.from_bytes(data[:4], "big")
    if count > _MAX_AGENT_MESSAGE_BYTES // 8:
        raise AgentError(f"the SSH agent claims {count} keys")
    pieces, _ = _strings(data[4:], 2 * count)
    return list(zip(pieces[::2], pieces[1::2], strict=True))
