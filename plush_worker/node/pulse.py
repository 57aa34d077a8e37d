"""Heartbeats: once in beat_s each link that was silent gets a PING, and a peer that was silent too long is lost.

Unpacked at the first beat.
"""

from . import frames
from .limits import HEARTBEATS_MISSED


class Pulse:
    """The beat of one node program."""

    def __init__(self, session):
        self._session = session

    def beat(self):
        """Once in beat_s."""
        session, beat_s = self._session, self._session.hello["beat_s"]
        session.loop.call_later(beat_s, self.beat)
        if session.logbook is not None:
            session.logbook.beat()
        if is_silent(session.uplink, session.loop.now(), beat_s):
            session.on_parent_end("silent", "")
        if session.tree is not None:
            session.tree.beat()


def is_silent(link, now, beat_s):
    """Whether the peer has been silent too long; sends a PING when nothing else was sent since the last beat."""
    if now - link.sent_at >= beat_s * 0.9:
        link.send(frames.PING, n=0)
    return now - link.heard_at > HEARTBEATS_MISSED * beat_s
