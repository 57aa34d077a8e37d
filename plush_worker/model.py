"""The data that travels between the command line, the store, the coordinator and the workers.

Plain frozen dataclasses that go to JSON and back; no pydantic here, because the command line imports this on its way
to the first request. Validation of what people write is in ``experiment/directory.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self


class JsonRecord:
    """A frozen dataclass with a JSON form; unknown keys are ignored, so that older readers cope with newer writers."""

    def to_json(self) -> str:
        """Compact JSON of all fields."""
        # Not asdict, which copies every host of a run: 25 of the 30 ms of storing one with 489 hosts.
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """From a mapping; lists become tuples, unknown keys are dropped. Raises TypeError when a field is missing."""
        names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Inverse of to_json. Raises ValueError or TypeError."""
        return cls.from_mapping(json.loads(text))


@dataclass(frozen=True, slots=True)
class HostEntry(JsonRecord):
    """One host as the directory or the OpenSSH configuration describes it: everything needed to link to it."""

    name: str  # as people write it; unique in a slice
    address: str  # what to connect to: a host name or an IP address (after HostName)
    port: int = 22
    user: str = ""  # empty: the worker's own user name
    known_hosts: tuple[str, ...] = ()  # "ssh-ed25519 AAAA...", "@cert-authority ssh-ed25519 AAAA...", "@revoked ..."
    site: str = ""
    tags: tuple[str, ...] = ()
    identity_files: tuple[str, ...] = ()  # paths on the machine of the worker (same user and machine as the CLI)
    certificate_files: tuple[str, ...] = ()
    identity_agent: str = ""  # a socket's path; empty: SSH_AUTH_SOCK of whoever resolved the entry; "none": no agent
    identities_only: bool = False
    proxy_jump: str = ""  # as written (ssh -J); for messages, and the fallback where nobody resolved ``jumps``
    # JSON texts of the jump hosts' own HostEntry (to_json), resolved like any other host (user, port, keys), in the
    # order they are passed: the first is connected to directly, each next one through the one before.
    # Text rather than mappings, so that an entry stays hashable.
    jumps: tuple[str, ...] = ()
    proxy_command: str = ""
    host_key_alias: str = ""
    host_key_algorithms: str = ""
    accept_new: bool = False  # an unknown key is accepted on a worker's own link, and recorded
    known_hosts_file: str = ""  # where accept_new records
    address_family: str = "any"  # any, inet, inet6
    forward_agent: bool = False
    config_file: str = ""  # the OpenSSH configuration it came from; for first_link: openssh and in error messages
    reachable_from: tuple[
        str, ...
    ] = ()  # host names, @tags or sites that can reach it; empty: anyone, the worker included


@dataclass(frozen=True, slots=True)
class SliceSettings(JsonRecord):
    """Every setting of how to reach the hosts of a slice."""

    name: str = "default"
    first_link: str = "asyncssh"  # asyncssh | openssh (the worker's user's own ssh)
    inner_login: str = "none"  # none (flat only) | agent (OpenSSH agent forwarding) | key (present on the hosts)
    inner_identity: str = ""  # inner_login key: its path on the hosts; empty: ssh's own defaults there
    inner_ssh_options: tuple[str, ...] = ()  # "Name=value" for -o on inner links
    planner: str = "auto"  # auto | flat | kary | site | greedy
    degree: int = 8  # children per host in a tree
    depth: int = 0  # most links from worker to leaf; 0: no limit
    logins_at_once: int = 8  # unauthenticated connections one host opens at a time
    worker_logins_at_once: int = 64  # the same for a worker
    connect_timeout_s: int = 10
    idle_timeout_s: int = 600  # the mesh is closed this long after its last run
    spool_full: str = "gap"  # gap | block, while orphaned


class HostState(StrEnum):
    """How one host of a run ended; the names of the JSON output."""

    EXITED = "exited"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    KILLED = "killed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RunSpec(JsonRecord):
    """One run as submitted. ``hosts`` are JSON forms of HostEntry (dicts), in the order people gave them."""

    run_id: str
    owner: str
    command: str  # for the login shell; surrogateescape carries bytes that aren't UTF-8
    hosts: tuple[dict[str, Any], ...]
    slice: dict[str, Any] = field(default_factory=dict)  # SliceSettings
    env: dict[str, str] = field(default_factory=dict)
    timeout_s: int = 0  # 0: none
    ttl_s: int = 86400  # without an owner's beat
    together: bool = False  # start when all are up or given up
    fanout: int = 0  # at most this many hosts run at once; 0: no limit
    client_lease_s: int = 0  # 0: needs no client
    submitted_at: float = 0.0
    submitter_host: str = ""  # machine id of the submitter: key paths reach only workers with the same
    submitter_uid: int = -1
    name: str = ""  # of the experiment
    kind: str = "run"  # run | deploy | fetch
    # Each {"name", "command", "hosts": indexes into hosts or None for all, "cwd", "env", "stdin": "" or the SHA-256 of
    # a blob, "timeout_s": 0 for none}; empty: ``command`` is the only process.
    processes: tuple[dict[str, Any], ...] = ()
    # Each {"dest": text with {host} and {index}, "kind": "file" | "dir" | "link", "mode": 0o644, "size": bytes,
    # "sha256": "" unless a file, "target": of a link, "hosts": indexes into hosts or None for all}.
    files: tuple[dict[str, Any], ...] = ()
    fetch: tuple[str, ...] = ()  # kind fetch: source paths on the hosts
    success: dict[str, Any] = field(default_factory=dict)  # empty: all hosts; {"at_least": n}: a quorum of hosts
    keep_s: int = 7 * 86400  # run and output are kept this long after the end; 0: until they are removed
    parent: str = ""  # reserved

    def entries(self) -> list[HostEntry]:
        """The hosts as entries."""
        return [HostEntry.from_mapping(h) for h in self.hosts]

    def settings(self) -> SliceSettings:
        """The slice's settings."""
        return SliceSettings.from_mapping(self.slice)


@dataclass(frozen=True, slots=True)
class WorkerInfo(JsonRecord):
    """A live worker as its lease describes it."""

    name: str
    incarnation: str
    queue: str
    protocol: int
    capacity: int = 1000  # hosts
    load: int = 0  # hosts under it now
    pid: int = 0
    host: str = ""  # machine id
    uid: int = -1
    state_dir: str = ""
    started_at: float = 0.0


@dataclass(frozen=True, slots=True)
class SubtreeRecord(JsonRecord):
    """A subtree as the store holds it, keyed by (mesh, root number)."""

    root: int
    owner: str  # worker name
    incarnation: str
    epoch: int
    members: str  # host set text, root included
    parents: dict[str, int] = field(default_factory=dict)  # child number (text) -> parent number; the root is absent
    settings: dict[str, Any] = field(default_factory=dict)  # SliceSettings
    up: str = ""  # host set text


@dataclass(frozen=True, slots=True)
class OpRecord(JsonRecord):
    """An op as stored before it is first sent. ``kind``: exec, signal, deploy, fetch."""

    op: int
    run_id: str
    mesh: str
    kind: str
    hosts: str  # host set text
    command: str = ""
    env: dict[str, str] = field(default_factory=dict)
    ttl_s: int = 86400
    timeout_s: int = 0
    ref: int = 0  # kind signal: the op meant
    signal: int = 0
    grace_ms: int = 5000
    name: str = ""  # of the process; empty: the run has but one
    cwd: str = ""  # empty: the home directory
    stdin: str = ""  # SHA-256 of a blob; empty: /dev/null
    files: tuple[dict[str, Any], ...] = ()  # kind deploy: the run's; each host takes those for its rank
    paths: tuple[str, ...] = ()  # kind fetch: source paths on the hosts
    # Host number (as text) -> index in the run; empty when the run needs no {index} or PLUSH_INDEX: ``plush run``.
    ranks: dict[str, int] = field(default_factory=dict)
