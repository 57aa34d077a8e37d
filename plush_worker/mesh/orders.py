"""Builds the frames a worker sends down: who a node program is, which links it opens, which op it runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plush_worker.model import HostEntry, OpRecord, SliceSettings
from plush_worker.node import frames, hostset, limits, messages

LINK_FRAME_BYTES = limits.MAX_FRAME_BYTES // 2
BUILT_IN = ("deploy", "fetch")  # kinds of ops whose process is code of the node program
TOO_OLD = "echo 'the node program here is too old for files: close its mesh with plush mesh down' >&2; exit 70"


def hello_frame(mesh: str, settings: SliceSettings, number: int, entry: HostEntry, order: int, epoch: int) -> bytes:
    """HELLO for a subtree root; the roots' node programs make those of the hosts below themselves."""
    body = messages.encode(
        frames.HELLO,
        version=limits.PROTOCOL_VERSION,
        mesh=mesh,
        host=number,
        order=order,
        name=entry.name,
        beat_s=limits.HEARTBEAT_S,
        hold_ms=limits.MERGE_HOLD_MS,
        window=limits.BULK_WINDOW_BYTES,
        connect_s=settings.connect_timeout_s,
    )
    return frames.encode(frames.HELLO, hostset.encode(1 << number), body, epoch)


def link_frames(
    settings: SliceSettings, target: int, order: int, epoch: int, tree: Sequence[tuple[int, int, HostEntry]]
) -> list[bytes]:
    """LINK for ``tree`` (number, parent, entry; parents before children), addressed to ``target``, in as many
    frames as the limits ask for."""
    ssh = [inner_ssh_options(settings)]
    built: list[bytes] = []
    entries: list[list[object]] = []
    size_bytes = 0
    for number, parent, entry in tree:
        row = _link_entry(number, parent, entry)
        row_bytes = len(messages.pack(row))
        if entries and (size_bytes + row_bytes > LINK_FRAME_BYTES or len(entries) >= limits.MAX_LINK_ENTRIES):
            built.append(_link_frame(target, order, epoch, ssh, entries))
            entries, size_bytes = [], 0
        entries.append(row)
        size_bytes += row_bytes
    if entries:
        built.append(_link_frame(target, order, epoch, ssh, entries))
    return built


def inner_ssh_options(settings: SliceSettings) -> list[str]:
    """Arguments for the hosts' own ``ssh``, from the slice."""
    options = [f"-o{option}" for option in settings.inner_ssh_options]
    if settings.inner_login == "agent":
        options.append("-oForwardAgent=yes")
    if settings.inner_login == "key" and settings.inner_identity:
        options += [f"-oIdentityFile={settings.inner_identity}", "-oIdentitiesOnly=yes"]
    return options


def op_body(record: OpRecord) -> bytes:
    """The body of OP for an op that is no signal."""
    more: dict[str, Any] = {}
    command = record.command
    if record.kind in BUILT_IN:
        more["built_in"], command = record.kind, TOO_OLD
    if record.stdin or record.kind == "deploy":
        more["stdin"] = True
    if record.kind == "fetch":
        more["lossless"] = True  # a gap would spoil the file
    for name in ("cwd", "paths", "ranks"):
        if value := getattr(record, name):
            more[name] = value
    return messages.encode(
        frames.OP,
        op=record.op,
        command=command.encode("utf-8", "surrogateescape"),
        env=record.env,
        ttl_s=record.ttl_s,
        timeout_s=record.timeout_s,
        **more,
    )


def _link_entry(number: int, parent: int, entry: HostEntry) -> list[object]:
    keys = "".join(f"{line}\n" for line in entry.known_hosts).encode()
    return [number, parent, entry.name, entry.address, entry.port, entry.user, keys, 0]


def _link_frame(target: int, order: int, epoch: int, ssh: list[list[str]], entries: list[list[object]]) -> bytes:
    body = messages.encode(frames.LINK, order=order, ssh=ssh, entries=entries)
    return frames.encode(frames.LINK, hostset.encode(1 << target), body, epoch)
