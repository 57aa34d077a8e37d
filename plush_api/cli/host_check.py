"""Logging in to many hosts at once to see whether it works. Entry point: ``check_hosts``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from plush_worker.mesh.first_link import LinkError, open_first_link
from plush_worker.mesh.host_keys import record_host_key
from plush_worker.model import HostEntry, SliceSettings

END_LIMIT_S = 10.0  # for `true` to end and the link to close


class Checked(NamedTuple):
    """How one login went."""

    name: str
    code: str = ""  # of docs/protocol.md's LOST codes; empty: it works
    error: str = ""
    connect_s: float = 0.0


class _Ending:
    """The handler of a link of which only the end is of interest."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.error: LinkError | None = None

    def data_received(self, data: bytes) -> None:
        """Banners of start-up files; nobody reads them here."""

    def connection_lost(self, error: LinkError | None) -> None:
        self.error = error
        self.ended.set()

    def pause_writing(self) -> None:
        """Nothing is written."""

    def resume_writing(self) -> None:
        """Nothing is written."""


async def check_hosts(
    entries: Sequence[HostEntry], settings: SliceSettings, report: Callable[[Checked], None]
) -> list[Checked]:
    """Logs in to every host and runs ``true``, so many at once as the slice lets a worker; reports each as it ends."""
    places = asyncio.Semaphore(settings.worker_logins_at_once)

    async def check(entry: HostEntry) -> Checked:
        async with places:
            checked = await _check_host(entry, settings)
        report(checked)
        return checked

    return await asyncio.gather(*(check(entry) for entry in entries))


async def _check_host(entry: HostEntry, settings: SliceSettings) -> Checked:
    began = time.monotonic()
    handler = _Ending()
    try:
        link = await open_first_link(entry, settings, "true", handler, host_key_recorder=record_host_key)
        connect_s = time.monotonic() - began
        try:
            async with asyncio.timeout(END_LIMIT_S):
                await handler.ended.wait()
        except TimeoutError:
            return Checked(
                entry.name, "silent", f"logged in, but `true` didn't end within {END_LIMIT_S:g} s", connect_s
            )
        finally:
            link.close()
            await link.wait_closed()
    except LinkError as error:
        return Checked(entry.name, error.code, error.detail, time.monotonic() - began)
    except OSError as error:
        return Checked(entry.name, "unreachable", os.strerror(error.errno or 0), time.monotonic() - began)
    if handler.error is not None:
        return Checked(entry.name, handler.error.code, handler.error.detail, connect_s)
    return Checked(entry.name, connect_s=connect_s)
