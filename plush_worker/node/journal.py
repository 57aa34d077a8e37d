"""What was started on this host, written before it is started: the ground of "at most once".

One line a record, appended with one write(): ``admitted ORDER``, ``op NUMBER``, ``tombstone NUMBER SIGNAL`` (an op
that must not start any more), ``closed NUMBER`` (all of it is stored above, or it is a signal op that was performed),
``dropped NUMBER`` (closed records up to it may be missing). A last line that was cut short doesn't count: whoever
wrote it was told so, or died before acting.
"""

import os
from errno import ENOSPC

from .limits import JOURNAL_KEPT_COUNT

OPEN, CLOSED = "open", "closed"


class Journal:
    """The journal at ``path``, read at once. All methods that write raise OSError, and then nothing has changed."""

    def __init__(self, path):
        self.states = {}  # op -> OPEN, CLOSED
        self.tombstones = {}  # op that must not start -> the signal that was meant for it
        self.admission = 0  # the highest
        self.dropped = 0  # the highest number that may have been forgotten
        self.damaged_count = 0  # lines that are no record
        self._path, self._fd, self._size = path, None, 0
        self._read()

    def _read(self):
        try:
            with open(self._path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return
        self._size = data.rfind(b"\n") + 1
        for line in data[: self._size].splitlines():
            try:
                words = line.decode("ascii").split()
                self._apply(words[0], *map(int, words[1:]))
            except (ValueError, TypeError, IndexError):
                self.damaged_count += 1

    def _apply(self, word, number, signal=0):
        if word == "admitted":
            self.admission = max(self.admission, number)
        elif word == "op":
            self.states[number] = OPEN
        elif word == "tombstone":
            self.tombstones[number] = signal
        elif word == "closed":
            self.states[number] = CLOSED
        elif word == "dropped":
            self.dropped = max(self.dropped, number)
        else:
            raise ValueError(word)

    def _append(self, *records):
        if self._fd is None:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.ftruncate(self._fd, self._size)
        text, written = _lines(records), 0
        try:
            written = os.write(self._fd, text)
        finally:
            if written != len(text):
                os.ftruncate(self._fd, self._size)
        if written != len(text):
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        self._size += written
        for record in records:
            self._apply(*record)

    def admit(self, order):
        """A new incarnation, admitted under ``order``, which counts even when it can't be written."""
        self.admission = max(self.admission, order)
        self._append(("admitted", order))

    def accept(self, op):
        """``op`` is about to be started."""
        self._append(("op", op))

    def signal(self, op, ref, signal):
        """Signal op ``op`` is about to be performed on ``ref``; leaves a tombstone where ``ref`` was never seen."""
        if self.is_new(ref):
            self._append(("closed", op), ("tombstone", ref, signal))
        else:
            self._append(("closed", op))

    def close(self, ops):
        """Everything of ``ops`` is stored above; those that aren't open are passed over."""
        records = [("closed", op) for op in ops if self.states.get(op) == OPEN]
        if records:
            self._append(*records)
            if len(self.states) + len(self.tombstones) >= 3 * JOURNAL_KEPT_COUNT:
                self._compact()

    def is_new(self, op):
        """Whether ``op`` was surely never seen here: above admission, above what was dropped, and not listed."""
        return op > self.admission and op > self.dropped and op not in self.states and op not in self.tombstones

    def open_ops(self):
        """The accepted ops that aren't closed, ascending."""
        return sorted(op for op, state in self.states.items() if state == OPEN)

    def _compact(self):
        """Write it anew without the lowest closed numbers. The highest of those is kept as ``dropped``: an op at or
        below it that isn't listed never starts. Some are kept listed, since ops of two runs may come out of order."""
        done = sorted(set(self.tombstones).union(self.states).difference(self.open_ops()))
        if len(done) < 2 * JOURNAL_KEPT_COUNT:
            return
        dropped = done[-JOURNAL_KEPT_COUNT - 1]
        states = {op: state for op, state in self.states.items() if state == OPEN or op > dropped}
        tombstones = {op: signal for op, signal in self.tombstones.items() if op in states or op > dropped}
        text = _lines([("admitted", self.admission), ("dropped", dropped)])
        text += _lines(("op" if state == OPEN else "closed", op) for op, state in states.items())
        text += _lines(("tombstone", op, signal) for op, signal in tombstones.items())
        with open(self._path + ".new", "wb", 0) as file:
            if file.write(text) != len(text):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        os.rename(self._path + ".new", self._path)
        os.close(self._fd)
        self._fd, self._size = None, len(text)
        self.states, self.tombstones, self.dropped = states, tombstones, dropped


def _lines(records):
    return b"".join(b"%s %s\n" % (r[0].encode(), b" ".join(b"%d" % number for number in r[1:])) for r in records)
