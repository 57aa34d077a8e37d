"""What a node program does with the frames of its parent: its own part, what it passes on, what it says upward.

Decides, and acts through the loop, the uplink (a flow.Link) and its parts (parts.py), which are made when first needed.
As ``node`` it is what those see of the program: host, order, state_dir, loop, emit(), uplink_full(), log().
"""

from . import frames, hostwire, messages
from .limits import PROTOCOL_VERSION

CONGESTED_BYTES = 1 << 20  # of control on the uplink: then nothing more is read from below


class Session:
    """Begins with the fields of HELLO; ``wire`` is what children are sent first (header and payload)."""

    def __init__(self, hello, loop, uplink, state_dir, wire):
        self.hello, self.loop, self.uplink, self.state_dir, self.wire = hello, loop, uplink, state_dir, wire
        self.host, self.order, self.own, self.epoch = hello["host"], hello["order"], 1 << hello["host"], 0
        self.ops = self.tree = self.stdin = self.pulse = self.logbook = self.ending = None
        self._pressed = False

    def start(self, python_version, journaled):
        """Say READY; go on with the ops of an earlier incarnation when there was one."""
        ready = messages.encode(frames.READY, order=self.order, version=PROTOCOL_VERSION, python=python_version)
        self.emit(frames.READY, ready)
        self.loop.call_later(self.hello["beat_s"], lambda: self.need("pulse").beat())
        if journaled:
            self.need("ops").recover()

    def need(self, name):
        """The part of that name; it is made, and its code unpacked, the first time."""
        if getattr(self, name) is None:
            from .parts import make

            setattr(self, name, make(name, self))
        return getattr(self, name)

    def on_frame(self, kind, flags, epoch, hosts_bytes, body):
        """A frame of the parent. Raises FrameError, HostSetError (the link ends), MessageError (it is dropped)."""
        if kind in frames.LINK_LOCAL:
            return self.uplink.on_local(kind, body)
        if kind not in frames.DOWNWARD or kind == frames.HELLO:
            raise frames.FrameError("%s came from the parent" % frames.NAMES[kind])
        if kind == frames.STDIN:
            return self.need("stdin").take(epoch, hosts_bytes, body)
        hosts = hostwire.decode(hosts_bytes)
        if epoch < self.epoch:
            return self.log("dropped: %s of epoch %d, now is %d" % (frames.NAMES[kind], epoch, self.epoch))
        self.epoch = epoch
        if self.ending is not None:
            return
        if kind == frames.LINK:
            return self.need("tree").link(messages.decode(kind, body))
        if self.tree is not None:
            self.tree.forward(kind, flags, epoch, hosts, body)
        if not hosts & self.own:
            return
        if kind == frames.QUIT:
            self.need("ending").quit(messages.decode(kind, body)["kill"])
        elif kind != frames.UNLINK and (kind != frames.BEAT or self.ops is not None):
            self.need("ops").handle(kind, epoch, body)

    def emit(self, kind, body):
        """Send a frame about this host upward."""
        (self.send_up if self.tree is None else self.tree.pass_up)(kind, body, self.own)

    def send_up(self, kind, body, hosts):
        """Put a frame about ``hosts`` on the uplink."""
        self.uplink.put(frames.encode(kind, hostwire.encode(hosts), body, self.epoch), kind in frames.BULK)
        self._pressed = self._pressed or self.uplink_full() or self.congested()

    def uplink_full(self):
        """Whether output should wait: below by getting no credit, here until Ops.resume_reading() is called."""
        return self.uplink.bulk_bytes >= self.uplink.window

    def congested(self):
        """Whether nothing more should be read from below."""
        return self.uplink.control_bytes > CONGESTED_BYTES

    def on_uplink_written(self):
        """Something left the uplink's queues: those who waited go on once there is room."""
        if self._pressed and self.uplink.bulk_bytes <= self.uplink.window // 2 and not self.congested():
            self._pressed = False
            for part in (self.tree, self.ops):
                if part is not None:
                    part.resume_reading()

    def on_parent_end(self, code, detail):
        """The uplink ended: end too, leaving what runs to its supervisors."""
        self.log("the link to the parent ended: %s %s" % (code, detail))
        self.loop.running = False

    def log(self, text):
        """Remember a line and send it to the worker, within limits."""
        self.need("logbook").add(text)

    def on_error(self, error):
        """A frame or a callback failed."""
        self.need("logbook").add_error(error)
