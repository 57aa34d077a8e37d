"""The worker's end of the link to one subtree root: from the first byte to the last frame.

Owns the order of things on that link: payload and first frames at once, the marker awaited, frames decoded, output
credited, heartbeats kept. What a frame means is the mesh state's business. Entry point: ``RootLink.open``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from plush_worker.mesh.first_link import FirstLink, LinkError, open_first_link
from plush_worker.mesh.payload import build_payload
from plush_worker.model import HostEntry, SliceSettings
from plush_worker.node import bootstrap, frames, limits, messages

BULK_FRAME_BYTES = limits.OUTPUT_CUT_BYTES + 1024  # about the most that one counts
BOOTSTRAP_EXTRA_S = 20  # from the session's start to the marker: a slow host unpacks and starts Python


class LinkOwner(Protocol):
    """What a RootLink reports to."""

    def link_frame(self, link: RootLink, kind: int, hosts: bytes, body: bytes, size_bytes: int) -> None:
        """An upward frame has come; ``size_bytes`` is what it counts against the window when it is bulk."""

    def link_has_room(self, link: RootLink) -> None:
        """More bulk may be sent now (``takes_bulk``)."""

    def link_ended(self, link: RootLink, code: str, detail: str, reached: bool) -> None:
        """The link failed or ended; called once."""


class RootLink:
    """One link. ``first_frames`` follow the payload; what is sent before the link is open waits behind them."""

    def __init__(
        self, owner: LinkOwner, root: int, entry: HostEntry, settings: SliceSettings, first_frames: Sequence[bytes]
    ) -> None:
        self.root = root
        self.entry = entry
        self._owner = owner
        self._settings = settings
        self._gone = asyncio.Event()  # the connection is lost
        self._queue: list[bytes] = list(first_frames)
        self._queued_bytes = 0
        self._link: FirstLink | None = None
        self._prelude = bootstrap.Prelude()
        self._decoder = frames.Decoder()
        self._settled = asyncio.Event()  # the marker has come, or the link has ended
        self.reached = False  # the node program's marker has been seen
        self._paused = False
        self._closing = False
        self._ended = False
        self._taken_bytes = 0
        self._credited_bytes = 0
        self._bulk_sent_bytes = self._bulk_taken_bytes = 0  # downward: running totals, the second by the host's CREDIT
        self.last_heard_s = time.monotonic()
        self._last_sent_s = self.last_heard_s
        self._pings = 0

    async def open(self, record_host_key: Callable[[HostEntry, str], None]) -> None:
        """Connects, starts the node program and waits for its marker. Failures go to the owner, never to the caller."""
        try:
            self._link = await open_first_link(
                self.entry, self._settings, bootstrap.command_line(), self, host_key_recorder=record_host_key
            )
        except LinkError as error:
            self._end(error.code, error.detail)
            return
        if self._ended:
            self._link.close()
            return
        queue, self._queue, self._queued_bytes = self._queue, [], 0
        self._link.write(bootstrap.header(build_payload()) + b"".join(queue))
        wait_s = self._settings.connect_timeout_s + BOOTSTRAP_EXTRA_S
        try:
            await asyncio.wait_for(self._settled.wait(), wait_s)
        except TimeoutError:
            printed = self._prelude.quote()
            quote = f"; it printed: {printed}" if printed else ""
            self._end("bootstrap", f"logged in, but no node program started within {wait_s} s{quote}")

    def send(self, frame: bytes) -> None:
        """Writes a frame, or queues it until that is possible. Over the limit the link ends."""
        if self._ended:
            return
        if self._link is None or self._paused:
            self._queue.append(frame)
            self._queued_bytes += len(frame)
            if self._queued_bytes > limits.MAX_CONTROL_QUEUE_BYTES:
                self._end("limit", f"{self._queued_bytes} bytes wait to be sent and the host takes none")
            return
        self._last_sent_s = time.monotonic()
        self._link.write(frame)

    def takes_bulk(self) -> bool:
        """Whether send_bulk() may be called: the host is there and has taken in enough of what was sent before."""
        ahead_bytes = self._bulk_sent_bytes - self._bulk_taken_bytes
        is_open = self.reached and not self._ended and not self._paused
        return is_open and ahead_bytes + BULK_FRAME_BYTES <= limits.BULK_WINDOW_BYTES

    def send_bulk(self, frame: bytes) -> None:
        """Writes a bulk frame; not unless takes_bulk()."""
        self._bulk_sent_bytes += len(frame)
        self.send(frame)

    def credit(self, size_bytes: int) -> None:
        """Bulk bytes of this link were handed on; tells the host when a quarter of the window has gone by."""
        self._taken_bytes += size_bytes
        if self._taken_bytes - self._credited_bytes >= limits.BULK_WINDOW_BYTES // 4:
            self._credited_bytes = self._taken_bytes
            self.send(frames.encode(frames.CREDIT, b"", messages.encode_credit(self._taken_bytes)))

    def keep_alive(self, now_s: float) -> None:
        """To be called about once a second: a PING where nothing was sent; the link's end where nothing is heard."""
        if not self.reached or self._ended:
            return
        silent_s = now_s - self.last_heard_s
        if silent_s > limits.HEARTBEAT_S * limits.HEARTBEATS_MISSED:
            self._end("silent", f"nothing heard for {silent_s:.0f} s")
        elif now_s - self._last_sent_s >= limits.HEARTBEAT_S:
            self._pings += 1
            self.send(frames.encode(frames.PING, b"", messages.encode(frames.PING, n=self._pings)))

    async def finish(self, wait_s: float) -> None:
        """After QUIT: gives the node program ``wait_s`` to leave by itself and remove its files, then closes."""
        self._closing = True
        if self._link is not None and not self._ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), wait_s)
        self.close()

    def close(self) -> None:
        """Ends the link; the owner isn't told."""
        self._closing = self._ended = True
        self._settled.set()
        if self._link is not None:
            self._link.close()

    # ---- called by the first link

    def data_received(self, data: bytes) -> None:
        """Bytes from the host: first what stands before the marker, then frames."""
        if self._ended:
            return
        self.last_heard_s = time.monotonic()
        try:
            if not self.reached:
                if not self._marker_found(data):
                    return
                data = self._prelude.rest
            for kind, _flags, _epoch, hosts, body in self._decoder.feed(data):
                self._frame(kind, hosts, body)
        except (frames.FrameError, messages.MessageError) as error:
            self._end("protocol", f"sent what is no frame: {error}")

    def connection_lost(self, error: LinkError | None) -> None:
        """The connection is gone."""
        self._gone.set()
        if error is not None:
            self._end(error.code, error.detail)
            return
        tail = self._link.stderr_tail().strip() if self._link is not None else ""
        if self.reached:
            self._end("eof", f"the link ended{': ' + tail if tail else ''}")
        else:
            self._prelude.finish()
            self._end(self._prelude.code, f"{self._prelude.text}{_said(tail)}")

    def pause_writing(self) -> None:
        """The connection's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._paused = False
        queue, self._queue, self._queued_bytes = self._queue, [], 0
        if queue and self._link is not None and not self._ended:
            self._last_sent_s = time.monotonic()
            self._link.write(b"".join(queue))
        if not self._paused and not self._ended:
            self._owner.link_has_room(self)

    # ---- inside

    def _marker_found(self, data: bytes) -> bool:
        state = self._prelude.feed(data)
        if state == bootstrap.Prelude.FAILED:
            self._end(self._prelude.code, self._prelude.text)
        elif state == bootstrap.Prelude.FOUND:
            self.reached = True
            self._settled.set()
        return self.reached

    def _frame(self, kind: int, hosts: bytes, body: bytes) -> None:
        if kind == frames.PING:
            self.send(frames.encode(frames.PONG, b"", body))
        elif kind == frames.CREDIT:
            taken = min(messages.decode_credit(body), self._bulk_sent_bytes)
            self._bulk_taken_bytes = max(self._bulk_taken_bytes, taken)
            self._owner.link_has_room(self)
        elif kind in frames.UPWARD:
            size_bytes = 16 + len(hosts) + len(body) if kind in frames.BULK else 0
            self._owner.link_frame(self, kind, hosts, body, size_bytes)
        elif kind in frames.DOWNWARD:
            raise frames.FrameError(f"{frames.NAMES[kind]} came from below")

    def _end(self, code: str, detail: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._settled.set()
        if self._link is not None:
            self._link.close()
        if not self._closing:
            self._owner.link_ended(self, code, detail, self.reached)


def _said(tail: str) -> str:
    return f"; it said: {tail[-500:]}" if tail else ""
