"""What stands between a worker and a host: jump hosts, as entries of their own, or a proxy command. Pure.

Entry points: ``jump_entries``, ``proxy_command``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from plush_worker.mesh.first_link import LinkError
from plush_worker.model import HostEntry


@lru_cache(maxsize=4096)
def jump_entries(entry: HostEntry) -> tuple[HostEntry, ...]:
    """In the order they are passed; empty without a jump. Raises LinkError (``name``) on text that is no list of hosts.

    Where nobody resolved ``entry.jumps``, each host of ``entry.proxy_jump`` is taken as written, with the entry's own
    keys, no known host key and no jumps.
    """
    if entry.jumps:
        return tuple(HostEntry.from_json(text) for text in entry.jumps)
    if entry.proxy_jump in ("", "none"):
        return ()
    return tuple(_as_written(entry, part.strip()) for part in entry.proxy_jump.split(","))


def proxy_command(entry: HostEntry) -> str:
    """The command line for a shell, empty for none. ``%h``, ``%p`` and ``%r`` are replaced where they still stand; all
    tokens were when the entry was resolved."""
    if entry.proxy_command in ("", "none"):
        return ""
    command = entry.proxy_command
    for token, value in (("%h", entry.address), ("%p", str(entry.port)), ("%r", entry.user)):
        command = command.replace(token, value)
    return command


def _as_written(entry: HostEntry, part: str) -> HostEntry:
    user, _, place = part.removeprefix("ssh://").rstrip("/").rpartition("@")
    if place.startswith("["):
        address, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    elif place.count(":") == 1:
        address, _, port = place.partition(":")
    else:
        address, port = place, ""
    if not address or (port and not port.isdigit()):
        raise LinkError("name", f"ProxyJump {entry.proxy_jump!r}: {part!r} is no [user@]host[:port]")
    return replace(
        entry, name=address, address=address, port=int(port or 22), user=user, known_hosts=(), proxy_jump="", jumps=(),
        proxy_command="", host_key_alias="", host_key_algorithms="", accept_new=False, forward_agent=False,
    )  # fmt: skip
