"""Merging on the way up: equal frames of many hosts become one. Pure: frames and times in, frames out.

A frame belongs to a *group* (what each host says at the same moment: the end of op 7, op 7's stdout at 32768) and to
a *lane* (op 7's states, op 7's stdout), in which groups follow each other. It is held until every host that the group
concerns has said its part, or for ``hold_s``; a stream whose pieces were held in vain VAIN_COUNT times in a row is
held no more. A lane is always sent in the order of its groups, so no frames of one host change places.
"""

from . import frames, messages
from .limits import MERGE_TABLE_BYTES

VAIN_COUNT = 3
GROUPS_REMEMBERED = 64  # of a lane: who was heard in them; what comes for an older group is passed on at once
EXPECTED_COUNT = 4096  # ops and orders at a time; frames of more are passed on at once

_ORDER, _STATE, _NEED = "order", "state", "need"  # lanes besides the streams; all but the first are of ops
_OF_OP = (_STATE, _NEED, messages.STDOUT, messages.STDERR)


class _Held:
    __slots__ = ("body", "deadline", "group", "hosts", "kind", "merged")

    def __init__(self, kind, body, hosts, group, deadline):
        self.kind, self.body, self.hosts, self.group, self.deadline = kind, body, hosts, group, deadline
        self.merged = False


class _Lane:
    __slots__ = ("ended", "heard", "held", "in_vain")

    def __init__(self):
        self.held = {}  # (kind, body) -> _Held, in the order of their deadlines
        self.heard = {}  # group -> hosts
        self.ended = 0  # hosts that say nothing more here
        self.in_vain = 0


class Merger:
    """Holds frames about the hosts of one node and below. What is returned to be sent is [(kind, body, hosts)]."""

    def __init__(self, hold_s):
        self._hold_s = hold_s
        self._expected = {}  # (is of an order, number) -> hosts that will answer
        self._lanes = {}  # (_ORDER, _STATE or stream, number) -> _Lane
        self.held_bytes = 0

    def expect_ready(self, order, hosts):
        """``hosts`` are being linked under ``order``."""
        self._expect((True, order), hosts)

    def expect_op(self, op, hosts):
        """``hosts`` were given ``op``."""
        self._expect((False, op), hosts)

    def _expect(self, key, hosts):
        if key in self._expected or len(self._expected) < EXPECTED_COUNT:
            self._expected[key] = self._expected.get(key, 0) | hosts

    def forget_op(self, op):
        """The op is closed. Returns what was held of it."""
        self._expected.pop((False, op), None)
        return [frame for name in _OF_OP for frame in self._drop_lane((name, op))]

    def lost(self, hosts):
        """Nothing more comes from ``hosts``. Returns all that is held, which goes before the news of the loss."""
        found = [frame for lane in self._lanes.values() for frame in self._flush(lane)]
        for of_order, number in list(self._expected):
            left = self._expected[of_order, number] & ~hosts
            self._expected[of_order, number] = left
            if not left:
                del self._expected[of_order, number]
                if of_order:
                    self._drop_lane((_ORDER, number))
        return found

    def add(self, kind, body, hosts, now):
        """Take in a frame; return those to send now. Raises MessageError for a body that isn't what its kind says."""
        name, number, group, ends = _place(kind, body)
        expected = self._expected.get((name == _ORDER, number), 0)
        lane = self._lanes.get((name, number))
        if lane is None:
            if not expected or self._hold_s <= 0:
                return [(kind, body, hosts)]
            lane = self._lanes[name, number] = _Lane()
        if self._is_forgotten(lane, group):
            return self._flush(lane) + [(kind, body, hosts)]
        lane.heard[group] = heard = lane.heard.get(group, 0) | hosts
        if ends:
            self._end(name, number, hosts)
        self._hold(lane, kind, body, hosts, group, now)
        found = []
        if lane.in_vain >= VAIN_COUNT:
            found = self._flush(lane)
        elif not expected & ~(heard | lane.ended):
            found = self._flush(lane, group)
            if name == _ORDER:
                found += self._drop_lane((name, number))
                self._expected.pop((True, number), None)
        while self.held_bytes > MERGE_TABLE_BYTES:
            found += self._flush(max(self._lanes.values(), key=lambda lane: len(lane.held)))
        return found

    def due(self, now):
        """The frames that were held long enough, and what goes before them."""
        found = []
        for (name, _), lane in self._lanes.items():
            expired = [held for held in lane.held.values() if held.deadline <= now]
            if expired:
                if name in (messages.STDOUT, messages.STDERR):
                    lane.in_vain += sum(not held.merged for held in expired)
                found += self._flush(lane, max(held.group for held in expired))
        return found

    def deadline(self):
        """When due() has something next; None when nothing is held."""
        oldest = [next(iter(lane.held.values())) for lane in self._lanes.values() if lane.held]
        return min(held.deadline for held in oldest) if oldest else None

    def _is_forgotten(self, lane, group):
        if group not in lane.heard and len(lane.heard) >= GROUPS_REMEMBERED:
            oldest = min(lane.heard)
            if group < oldest:
                return True
            del lane.heard[oldest]
        return False

    def _end(self, name, number, hosts):
        """END of a stream; or an op that could not be started, which has no output."""
        for stream in (name,) if name != _STATE else (messages.STDOUT, messages.STDERR):
            self._lanes.setdefault((stream, number), _Lane()).ended |= hosts

    def _hold(self, lane, kind, body, hosts, group, now):
        held = lane.held.get((kind, body))
        if held is None:
            lane.held[kind, body] = _Held(kind, body, hosts, group, now + self._hold_s)
            self.held_bytes += len(body)
        else:
            held.hosts |= hosts
            held.merged = True
            lane.in_vain = 0

    def _flush(self, lane, last_group=None):
        """Take out what is held of the groups up to ``last_group`` (None: all), in their order."""
        found = [held for held in lane.held.values() if last_group is None or held.group <= last_group]
        for held in found:
            del lane.held[held.kind, held.body]
            self.held_bytes -= len(held.body)
        found.sort(key=lambda held: held.group)
        return [(held.kind, held.body, held.hosts) for held in found]

    def _drop_lane(self, key):
        lane = self._lanes.pop(key, None)
        return self._flush(lane) if lane is not None else []


def _place(kind, body):
    """(name of its lane, number of its op or order, group, whether its hosts end with it) of a frame."""
    if kind == frames.OUTPUT:
        op, stream, flags, offset = messages.decode_output(body)
        return stream, op, offset, flags & messages.END
    fields = messages.decode(kind, body)
    if kind == frames.READY:
        return _ORDER, fields["order"], 0, False
    if kind == frames.HELD:
        return _STATE, fields["op"], 0, False
    if kind == frames.NEED:
        return _NEED, fields["op"], fields["offset"], False
    return _STATE, fields["op"], fields["ordinal"], fields["state"] == "failed"
