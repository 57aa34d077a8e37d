"""What a command submits: a run of this user on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from plush_worker.model import HostEntry, RunSpec, SliceSettings

TTL_S = 60  # hosts stop what they run this long after the last beat of an owner


def owner_name() -> str:
    """Whom runs and meshes belong to: this user by name."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def make_spec(
    entries: Sequence[HostEntry], settings: SliceSettings, command: str, *, ttl_s: int = TTL_S, **fields: Any
) -> RunSpec:
    """A run of this user on this machine."""
    from plush_worker.xdg import machine_id

    digits = os.urandom(16).hex()
    return RunSpec(
        run_id="-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])),
        owner=owner_name(),
        command=command,
        hosts=tuple(_changed_fields(entry) for entry in entries),
        slice=_fields(settings),
        ttl_s=ttl_s,
        submitted_at=time.time(),
        submitter_host=machine_id(),
        submitter_uid=os.getuid(),
        **fields,
    )


def _fields(record: HostEntry | SliceSettings) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


_BLANK = HostEntry("", "")


def _changed_fields(entry: HostEntry) -> dict[str, Any]:
    """The fields that aren't at their defaults: a spec of 1,000 hosts shrinks to a third."""
    return {name: value for name, value in _fields(entry).items() if value != getattr(_BLANK, name)}
