"""One end of a link, without its descriptors: bytes in, frames out and back; queues and credit. Pure.

Control frames overtake bulk frames, and those wait for the receiver's credit (``docs/protocol.md``, "Flow control").
"""

from . import frames, messages

GATHER_BYTES = 1 << 16  # bulk taken at a time: what a pipe holds, and the most that control ever waits behind


class Link:
    """At most ``window`` bulk bytes are on the way. ``notify`` (a callable) hears when there is something to write."""

    def __init__(self, window, now):
        self.window, self.notify = window, lambda: None
        self.control_bytes = self.bulk_bytes = 0  # queued
        self.heard_at = self.sent_at = now
        self._decoder = frames.Decoder()
        self._control, self._bulk, self._out = [], [], memoryview(b"")
        self._bulk_sent = self._bulk_credited = 0  # running totals

    def put(self, frame, bulk=False):
        """Queue an encoded frame."""
        if bulk:
            self._bulk.append(frame)
            self.bulk_bytes += len(frame)
        else:
            self._control.append(frame)
            self.control_bytes += len(frame)
        self.notify()

    def send(self, kind, **fields):
        """Queue a link-local message."""
        self.put(frames.encode(kind, b"", messages.encode(kind, **fields)))

    def output(self):
        """What to write now (empty: nothing); wrote() says how much of it was."""
        if not self._out:
            pieces, self._control, self.control_bytes = self._control, [], 0
            count = size = 0
            for frame in self._bulk:
                ahead = self._bulk_sent + size - self._bulk_credited
                if size >= GATHER_BYTES or (ahead and ahead + len(frame) > self.window):
                    break
                count, size = count + 1, size + len(frame)
            self._out = memoryview(b"".join(pieces + self._bulk[:count]))
            del self._bulk[:count]
            self.bulk_bytes -= size
            self._bulk_sent += size
        return self._out

    def wrote(self, count, now):
        """The first ``count`` bytes of output() are written."""
        self._out, self.sent_at = self._out[count:], now

    def feed(self, data, now):
        """The frames that ``data`` completes. Raises FrameError."""
        self.heard_at = now
        return self._decoder.feed(data)

    def on_local(self, kind, body):
        """A link-local frame came. Raises MessageError."""
        if kind == frames.CREDIT:
            self._bulk_credited = max(self._bulk_credited, min(messages.decode_credit(body), self._bulk_sent))
            self.notify()
        elif kind == frames.PING:
            self.send(frames.PONG, n=messages.decode(kind, body)["n"])
