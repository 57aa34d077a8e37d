"""Server-sent events (WHATWG HTML, 9.2): bytes in, events out. Pure.

Any split of the bytes gives the same events. An event whose blank line hasn't come isn't one.
"""

from __future__ import annotations

from typing import NamedTuple

from .api_errors import ApiFailed

MAX_EVENT_BYTES = 4 << 20  # the service stores events of at most 1 MiB


class ServerEvent(NamedTuple):
    """One event. ``id`` is the last one that was sent, as the standard has it."""

    id: str
    name: str  # "message" when the event has none
    data: str


class ServerEvents:
    """Decodes one connection's bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._name = ""
        self._data: list[str] = []
        self._size_bytes = 0

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that these bytes complete. Raises ApiFailed when an event is too large."""
        ends_in_cr = data.endswith(b"\r")
        if ends_in_cr:  # its line feed may be the next byte
            data = data[:-1]
        *lines, rest = (self._rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + (b"\r" if ends_in_cr else b"")
        found = [event for line in lines if (event := self._line(line.decode("utf-8", "replace")))]
        if self._size_bytes + len(self._rest) > MAX_EVENT_BYTES:
            raise ApiFailed(f"the service sent an event of more than {MAX_EVENT_BYTES} bytes")
        return found

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size_bytes += len(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        data, name = self._data, self._name
        self._data, self._name, self._size_bytes = [], "", 0
        return ServerEvent(self._id, name or "message", "\n".join(data)) if data else None
