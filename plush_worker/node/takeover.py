"""How a new incarnation takes over what earlier ones have left: supervisors that live, ops that have lost theirs.

Part of ``ops.py``; unpacked where a journal was found.
"""

import os
from _signal import SIGKILL
from _socket import AF_UNIX, SOCK_STREAM, socket

from . import frames, messages, op_files
from .ops import Held, Tail
from .sessions import kill_session

CONNECT_TRIES, CONNECT_PAUSE_S = 100, 0.1  # a supervisor just forked may not listen yet


class Takeover:
    """Of what ``journal`` and ``folder`` know, into ``ops``."""

    def __init__(self, node, ops, journal, folder):
        self._node, self._ops, self._journal, self._folder = node, ops, journal, folder

    def run(self):
        """Say of every open op that it is held, and find its supervisor or its end."""
        if self._journal.damaged_count:
            self._node.log("journal: %d lines are damaged" % self._journal.damaged_count)
        for op in self._journal.open_ops():
            found = op_files.look_up(self._folder, op)
            if found.defect:
                self._node.log("op %d: its supervisor was lost%s" % (op, found.defect))
            self._node.emit(frames.HELD, messages.encode(frames.HELD, op=op))
            self._take(op, found)
        self._remove_leftovers()

    def _take(self, op, found):
        end = self._ops.end_at_once
        if found.is_supervised:
            self._connect(self._hold(op))
        elif found.final is not None:
            self._ops.settle(op, found.final, Tail.LOST)
        elif op in self._journal.tombstones:
            end(op, "killed", Tail.EMPTY, "signal", self._journal.tombstones[op])
        elif found.session is not None and kill_session(*found.session):
            end(op, "killed", Tail.LOST, "supervisor lost", SIGKILL)
        elif found.began:
            end(op, "unknown", Tail.LOST, "its supervisor was lost with the node program")
        else:
            end(op, "failed", Tail.EMPTY, "not started")

    def _remove_leftovers(self):
        """Files of ops that aren't open: end the supervisors that still stand over closed ones."""
        for op in op_files.listed(self._folder).difference(self._journal.open_ops()):
            if op_files.look_up(self._folder, op).is_supervised:
                held = self._hold(op)
                held.closing = True
                self._connect(held)
            else:
                op_files.remove(self._folder, op)

    def _hold(self, op):
        held = self._ops.held[op] = Held(op)
        return held

    def _connect(self, held, tries=CONNECT_TRIES):
        connection = socket(AF_UNIX, SOCK_STREAM)
        folder_fd = os.open(self._folder, os.O_RDONLY)
        try:  # by descriptor: a path of more than 104 bytes can't be connected to
            connection.setblocking(False)
            connection.connect("/proc/self/fd/%d/op-%d.sock" % (folder_fd, held.op))
        except OSError as error:
            connection.close()
            if tries and op_files.look_up(self._folder, held.op).is_supervised:
                self._node.loop.call_later(CONNECT_PAUSE_S, lambda: self._connect(held, tries - 1))
            else:
                self._node.log("op %d: its supervisor can't be reached: %s" % (held.op, error.strerror))
                self._ops.on_gone(held)
            return
        finally:
            os.close(folder_fd)
        self._ops.attach(held, connection)
        if held.closing:
            self._ops.close(held)
