"""The command's own standard output and error, as bytes: buffering, the progress line, colours.

Owns descriptors 1 and 2. What a run prints goes through ``Console.write``; words of Plush itself through ``say``.
Stands between the two when both are one terminal, so that the progress line never mixes with output.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

STDOUT, STDERR = 1, 2
BUFFER_BYTES = 1 << 16
PROGRESS_AFTER_S = 1.0
PROGRESS_EVERY_S = 0.1
_CLEAR_LINE = b"\r\x1b[K"


class OutputClosed(Exception):
    """Nobody reads standard output any more (``plush run ... | head``)."""


class Console:
    """Both streams of the command."""

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._clock = clock
        self._began = clock()
        self._buffers: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        self._sizes = {STDOUT: 0, STDERR: 0}
        self._at_line_start = {STDOUT: True, STDERR: True}
        self._terminal = {fd: os.isatty(fd) for fd in (STDOUT, STDERR)}
        self._closed = False
        self._progress = b""
        self._progress_at = self._began

    def is_terminal(self, descriptor: int) -> bool:
        """Whether a person reads this stream."""
        return self._terminal[descriptor]

    def colours(self, descriptor: int) -> bool:
        """Whether to colour: only on a terminal that can, and not with NO_COLOR."""
        return self._terminal[descriptor] and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @property
    def shows_progress(self) -> bool:
        """Whether ``progress`` can show anything."""
        return self._terminal[STDERR] and not self._quiet

    def write(self, descriptor: int, data: bytes) -> None:
        """Bytes for a stream, kept until ``flush`` or 64 KiB. Raises OutputClosed."""
        if descriptor == STDOUT and self._closed:
            return
        other = STDOUT + STDERR - descriptor
        if self._sizes[other]:
            self._send(other)  # keeps the order of the two where both go to one place
        self._buffers[descriptor].append(data)
        self._sizes[descriptor] += len(data)
        if self._sizes[descriptor] >= BUFFER_BYTES:
            self._send(descriptor)

    def flush(self) -> None:
        """Everything written goes out now. Raises OutputClosed."""
        for descriptor in (STDOUT, STDERR):
            self._send(descriptor)

    def close_output(self) -> None:
        """Standard output takes nothing more: what is written to it is dropped."""
        self._buffers[STDOUT], self._sizes[STDOUT] = [], 0
        self._closed = True

    def say(self, text: str, *, always: bool = False) -> None:
        """A line of Plush itself, on stderr; not when quiet unless ``always``."""
        if self._quiet and not always:
            return
        start = b"" if self._at_line_start[STDERR] else b"\n"
        self.write(STDERR, start + f"plush: {printable(text)}\n".encode())
        self.flush()

    def progress(self, text: str) -> None:
        """Show how far things are, on a terminal, when it takes longer than a second; in place of what stood there."""
        now = self._clock()
        if not self.shows_progress or now - self._began < PROGRESS_AFTER_S:
            return
        line = text.encode()
        if line == self._progress or now - self._progress_at < PROGRESS_EVERY_S or not self._whole_lines():
            return
        self.flush()
        self._progress, self._progress_at = line, now
        write_all(STDERR, _CLEAR_LINE + line)

    def end_progress(self) -> None:
        """Take the progress line away."""
        if self._progress:
            self._progress = b""
            write_all(STDERR, _CLEAR_LINE)

    def _whole_lines(self) -> bool:
        """Whether no line of output stands half printed on the terminal."""
        return all(self._at_line_start[fd] or not self._terminal[fd] for fd in (STDOUT, STDERR))

    def _send(self, descriptor: int) -> None:
        if not self._sizes[descriptor]:
            return
        data = b"".join(self._buffers[descriptor])
        self._buffers[descriptor], self._sizes[descriptor] = [], 0
        if self._terminal[descriptor]:
            self.end_progress()
        self._at_line_start[descriptor] = data.endswith(b"\n")
        write_all(descriptor, data)


def printable(text: str) -> str:
    """``text`` with what could play tricks on a terminal escaped: messages quote what hosts said."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # the descriptor was made non-blocking by whoever shares it
            select.select((), (descriptor,), ())
        except BrokenPipeError as error:
            if descriptor == STDERR:
                return
            raise OutputClosed from error
