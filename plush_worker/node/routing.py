"""The tree below a node program: who hangs below which child, what goes to whom, what may come up from where.

Decides; links are opened and closed by the given ``opener`` (links.Links), and the session sends upward. Unpacked at
the first LINK. ``docs/protocol.md``: "LINK", "Merging"; a host speaks only for what hangs below it.
"""

from . import frames, hostset, messages
from .flow import Link
from .limits import (
    CHILDREN_WINDOW_BYTES,
    MAX_CONTROL_QUEUE_BYTES,
    MAX_DETAIL_CHARS,
    MAX_FRAME_BYTES,
    MAX_HOST_NUMBER,
    MAX_LINK_ENTRIES,
    MIN_WINDOW_BYTES,
)
from .links import Links
from .merge import Merger

# [number, parent, name, address, port, user, known_hosts, ssh_index]
ENTRY_TYPES = [int, int, str, str, int, str, bytes, int]


class Child:
    """A host that is linked from here, or is being linked. ``below`` are the hosts that hang there, itself included.

    ``link`` has the sending half of flow control; the receiving half is here, since bulk comes only from below.
    """

    def __init__(self, entry, order, link):
        self.number, _, self.name, self.address, self.port, self.user, self.known_hosts = entry[:7]
        self.order, self.link = order, link
        self.below = 1 << self.number
        self.reached = self.quitting = False  # the marker was seen; QUIT was sent
        self._bulk_taken = self._bulk_announced = 0  # running totals

    def take_in(self, size_bytes):
        """A bulk frame came. Raises FrameError when the child sent far more than it had credit for."""
        self._bulk_taken += size_bytes
        if self._bulk_taken - self._bulk_announced > self.link.window + MAX_FRAME_BYTES:
            raise frames.FrameError("output beyond the window of %d bytes" % self.link.window)

    def give_credit(self):
        """Tell the child what was taken in, once that is a quarter of the window."""
        if self._bulk_taken - self._bulk_announced >= self.link.window // 4:
            self._bulk_announced = self._bulk_taken
            self.link.put(frames.encode(frames.CREDIT, b"", messages.encode_credit(self._bulk_taken)))


class Tree:
    """All that hangs below. ``opener`` has open(child, ssh_options), close(child), pause(child, paused), beat()."""

    def __init__(self, session, opener=None):
        self.session, self.opener = session, opener or Links(session)
        self.children = {}  # number -> Child
        self.orders = {}  # host -> the last link order seen for it
        self.merger = Merger(session.hello["hold_ms"] / 1000)
        self._timer = self._timer_at = self._on_empty = None

    # Downward

    def link(self, fields):
        """LINK: open links to children, pass on what concerns hosts below them. Raises MessageError."""
        order, options, entries = _checked(fields)
        passed = {}
        window = self._window(entries)
        for entry in entries:
            number, parent = entry[:2]
            if number == self.session.host or order <= self.orders.get(number, 0):
                self.session.log("dropped: link order %d to host %d is not above the last" % (order, number))
                continue
            self.drop(self.children.get(number), "replaced by link order %d" % order)
            for child in self.children.values() if number in self.orders else ():
                child.below &= ~(1 << number)  # it moves
            self.orders[number] = order
            via = self._via(parent)
            if parent == self.session.host:
                self.merger.expect_ready(order, 1 << number)
                self._open(Child(entry, order, Link(window, self.session.loop.now())), options[entry[7]])
            elif via is None:
                self.report_lost(order, number, 1 << number, "eof", "its parent, host %d, is not here" % parent, False)
            else:
                self.merger.expect_ready(order, 1 << number)
                via.below |= 1 << number
                passed.setdefault(via, []).append(entry)
        for child, share in passed.items():
            if self.children.get(child.number) is child:  # else it was lost, with them
                body = messages.encode(frames.LINK, order=order, ssh=options, entries=share)
                self._send(child, frames.LINK, body, 1 << child.number)

    def _window(self, entries):
        """What each child may have on the way, so that all together stay within CHILDREN_WINDOW_BYTES."""
        count = len(self.children) + sum(entry[1] == self.session.host for entry in entries)
        return max(MIN_WINDOW_BYTES, min(self.session.hello["window"], CHILDREN_WINDOW_BYTES // max(1, count)))

    def _via(self, host):
        for child in self.children.values():
            if child.below >> host & 1:
                return child
        return None

    def _open(self, child, options):
        changed = {"host": child.number, "order": child.order, "name": child.name, "window": child.link.window}
        self.children[child.number] = child
        child.link.put(self.session.wire)
        self._send(child, frames.HELLO, messages.pack(dict(self.session.hello, **changed)), 0)
        self.opener.open(child, options)

    def _send(self, child, kind, body, hosts):
        self._put(child, frames.encode(kind, hostset.encode(hosts), body, self.session.epoch))

    def _put(self, child, frame):
        child.link.put(frame)
        if child.link.control_bytes > MAX_CONTROL_QUEUE_BYTES:  # perhaps it still waits to be opened
            self.drop(child, "too much is queued for it", "limit")

    def forward(self, kind, flags, epoch, hosts, body):
        """Give each child its part of a frame of the parent; the body stays as it is."""
        if kind == frames.OP:
            self.merger.expect_op(messages.decode(kind, body)["op"], hosts & self._all())
        elif kind == frames.CLOSE:
            for op in messages.decode(kind, body)["ops"]:
                self._send_up_all(self.merger.forget_op(op))
        for child in list(self.children.values()):
            part = hosts & child.below
            if not part:
                continue
            if kind == frames.UNLINK and part >> child.number & 1:
                self.drop(child, "unlinked")
                continue
            child.quitting = child.quitting or (kind == frames.QUIT and bool(part >> child.number & 1))
            self._put(child, frames.encode(kind, hostset.encode(part), body, epoch, flags))

    def _all(self):
        found = self.session.own
        for child in self.children.values():
            found |= child.below
        return found

    # Upward

    def on_child_frame(self, child, kind, flags, epoch, hosts_bytes, body):
        """A frame of a child. Raises FrameError, HostSetError (its link ends) and MessageError (it is dropped)."""
        if kind in frames.LINK_LOCAL:
            return child.link.on_local(kind, body)
        if kind not in frames.UPWARD:
            raise frames.FrameError("%s came from below" % frames.NAMES[kind])
        if kind in frames.BULK:
            child.take_in(frames.HEADER_BYTES + len(hosts_bytes) + len(body))
        hosts = hostset.decode(hosts_bytes)
        if not hosts or hosts & ~child.below or (kind == frames.LOST and hosts >> child.number & 1):
            text = "dropped: host %d sent %s about %s, which it may not"
            self.session.log(text % (child.number, frames.NAMES[kind], hostset.to_text(hosts)[:100]))
        elif kind == frames.LOST:
            messages.decode(kind, body)
            child.below &= ~hosts
            self._send_up_all(self.merger.lost(hosts))
            self.session.send_up(kind, body, hosts)
        elif kind == frames.LOG:
            self.session.send_up(kind, body, hosts)
        else:
            self.pass_up(kind, body, hosts)
        if self.session.congested():
            self.opener.pause(child, True)
        if not self.session.uplink_full():
            child.give_credit()

    def pass_up(self, kind, body, hosts):
        """Merge a frame about this host or hosts below and send what is due."""
        if kind in (frames.READY, frames.STATE, frames.HELD, frames.NEED, frames.OUTPUT):
            self._send_up_all(self.merger.add(kind, body, hosts, self.session.loop.now()))
        else:
            self.session.send_up(kind, body, hosts)

    def _send_up_all(self, found):
        for frame in found:
            self.session.send_up(*frame)
        deadline = self.merger.deadline()
        if deadline is not None and (self._timer is None or deadline < self._timer_at):
            loop = self.session.loop
            loop.cancel(self._timer)
            self._timer, self._timer_at = loop.call_later(max(0, deadline - loop.now()), self._on_due), deadline

    def _on_due(self):
        self._timer = None
        self._send_up_all(self.merger.due(self.session.loop.now()))

    def resume_reading(self):
        """The uplink has room again."""
        for child in self.children.values():
            self.opener.pause(child, False)
            child.give_credit()

    # Ends

    def drop(self, child, why, code="eof"):
        """Close the link to a child, which may be None."""
        if child is not None:
            self.opener.close(child)
            self.on_child_end(child, code, why)

    def on_child_end(self, child, code, detail):
        """The link to a child failed or ended; told once."""
        if self.children.get(child.number) is not child:
            return
        del self.children[child.number]
        self._send_up_all(self.merger.lost(child.below))
        if not child.quitting:
            self.report_lost(child.order, child.number, child.below, code, detail, child.reached)
        self._tell_when_empty()

    def report_lost(self, order, number, hosts, code, detail, reached):
        """LOST, upward."""
        body = messages.encode(
            frames.LOST, order=order, child=number, code=code, detail=detail[-MAX_DETAIL_CHARS:], reached=reached
        )
        self.session.send_up(frames.LOST, body, hosts)

    def quit(self, done):
        """QUIT concerns this host and was forwarded: call ``done`` when all children are gone."""
        for child in list(self.children.values()):
            if not child.quitting:
                self.drop(child, "its parent was told to quit")
        self._on_empty = done
        self._tell_when_empty()

    def _tell_when_empty(self):
        if self._on_empty is not None and not self.children:
            done, self._on_empty = self._on_empty, None
            done()

    def close(self):
        """The node program ends: let go of every child."""
        for child in self.children.values():
            self.opener.close(child)

    def beat(self):
        """Once in beat_s."""
        self.opener.beat()


def _checked(fields):
    """(order, option lists, entries) of a LINK that is sound. Raises MessageError."""
    order, options, entries = fields["order"], fields["ssh"], fields["entries"]
    if len(entries) > MAX_LINK_ENTRIES:
        raise messages.MessageError("LINK of %d entries, at most %d" % (len(entries), MAX_LINK_ENTRIES))
    for words in options:
        if type(words) is not list or any(type(word) is not str for word in words):
            raise messages.MessageError("LINK: ssh is no list of lists of text")
    for entry in entries:
        if type(entry) is not list or [type(value) for value in entry[:8]] != ENTRY_TYPES:
            raise messages.MessageError("LINK: an entry is not as docs/protocol.md says")
        if not (0 <= entry[0] <= MAX_HOST_NUMBER and 0 <= entry[1] <= MAX_HOST_NUMBER and 0 < entry[4] < 65536):
            raise messages.MessageError("LINK: a number is out of range")
        if not 0 <= entry[7] < len(options):
            raise messages.MessageError("LINK: no ssh options %d" % entry[7])
    return order, options, entries
