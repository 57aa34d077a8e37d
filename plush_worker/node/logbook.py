"""What a node program says about itself: its last lines, sent upward within limits. Unpacked at the first line."""

from . import frames, messages
from .limits import LOG_LINES, MAX_DETAIL_CHARS

LOGS_PER_BEAT = 50  # LOG frames; more are counted, so that what comes from below can't flood what is above
MAX_DEFECTS = 100  # after so many the program ends, since it might be spinning


class Logbook:
    """The log of one node program; ``lines`` are its last."""

    def __init__(self, session):
        self._session = session
        self.lines = []
        self._left_count, self._defect_count = LOGS_PER_BEAT, 0

    def add(self, text):
        """Remember a line and send it to the worker."""
        session = self._session
        self.lines = self.lines[1 - LOG_LINES :] + [text[:MAX_DETAIL_CHARS]]
        self._left_count -= 1
        if self._left_count >= 0:
            session.send_up(frames.LOG, messages.encode(frames.LOG, text=self.lines[-1]), session.own)

    def add_error(self, error):
        """A bad message, which was dropped; else a defect here, told with the places it passed, innermost last."""
        if isinstance(error, messages.MessageError):
            return self.add("dropped: %s" % error)
        places, trace = [], error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append("%s:%s" % (code.co_filename, trace.tb_lineno or code.co_name))
            trace = trace.tb_next
        self.add("defect: %s: %s at %s" % (type(error).__name__, error, " ".join(places)))
        self._defect_count += 1
        if self._defect_count >= MAX_DEFECTS:
            self._session.on_parent_end("limit", "%d defects" % MAX_DEFECTS)

    def beat(self):
        """Once in beat_s: more may be sent."""
        suppressed, self._left_count = -self._left_count, LOGS_PER_BEAT
        if suppressed > 0:
            self.add("%d more lines" % suppressed)
