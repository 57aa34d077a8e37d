"""Ops with more than a command: a standard input, a folder to run in, or built-in code (``files.py``) as the process.

In the supervisor, unpacked for the first such op. The standard input comes in pieces; what the process hasn't read yet
is kept up to a window, and the worker is told how far it has read, or where to go on when a piece was lost.
"""

import os
import time
from _signal import SIG_DFL, SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGTERM, set_wakeup_fd, signal
from select import POLLOUT

from . import files, frames, messages, process, stdin
from .limits import STDIN_WINDOW_BYTES

STEP_BYTES = STDIN_WINDOW_BYTES // 4  # what was read is told at multiples of this
ASK_S, ASK_LATEST_S = 5.0, 80.0  # without a piece that may come; each time twice as late
_NOTHING_MORE = -1


def start(order, folder, watch, unwatch, say):
    """Start the process of ``order``; returns (its Inlet or None, pid, stdout, stderr). Raises as process.start()."""
    values, home = order.more, order.home
    if values.get("cwd"):
        home = files.expand(os.fsencode(values["cwd"]), order.home, order.environment)
        os.chdir(os.fsdecode(home))  # that it fails is told here; with the home directory start() does as sshd does
        os.chdir(folder)
    read_fd, write_fd = os.pipe()
    try:
        if values.get("built_in"):
            found = _fork(order, folder, values, read_fd)
        else:
            given = read_fd if values.get("stdin") else None
            found = process.start(order.command, order.environment, order.shell, home, folder, given)
    except BaseException:
        os.close(write_fd)
        raise
    finally:
        os.close(read_fd)
    if not values.get("stdin"):
        os.close(write_fd)
        return (None, *found)
    inlet = Inlet(order.op, write_fd, watch, unwatch, say)
    inlet.need(True)
    return (inlet, *found)


def _fork(order, folder, values, read_fd):
    """As process.start(), for built-in code; returns when the process has its session."""
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    begun_r, begun_w = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setsid()
            set_wakeup_fd(-1)
            for number in (SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGTERM):
                signal(number, SIG_DFL)
            process.close_inherited((read_fd, out_w, err_w))
            for target, fd in enumerate((read_fd, out_w, err_w)):
                os.dup2(fd, target)
                os.close(fd)
            code = files.run(order, values, files.mark(folder, order.op))
        except Exception as error:
            os.write(2, ("%s: %s\n" % (type(error).__name__, error)).encode("utf-8", "replace"))
        finally:
            os._exit(code)
    for fd in (out_w, err_w, begun_w):
        os.close(fd)
    os.read(begun_r, 1)
    os.close(begun_r)
    return pid, out_r, err_r


class Inlet:
    """The standard input of one process. ``ask_at`` (monotonic, or None): when on_time() is to be called."""

    def __init__(self, op, fd, watch, unwatch, say):
        self._op, self._fd = op, fd  # None once closed
        self._watch, self._unwatch, self._say = watch, unwatch, say
        self._waiting, self._watched = bytearray(), False
        self._got = self._told = 0  # how far it has come; how far the worker knows that it was read
        self._ended = self._asked = False
        self._pause_s, self.ask_at = ASK_S, None
        os.set_blocking(fd, False)

    def need(self, again):
        """Tell how far the process has read, or with ``again`` from where on all is to be sent again."""
        if again:
            self._told = self._got
        offset = self._told if self._fd is not None else _NOTHING_MORE
        self._asked = again
        self._say(frames.NEED, messages.encode(frames.NEED, op=self._op, offset=offset, again=again))
        self._expect()

    def on_time(self, now):
        """Nothing has come for long although it may: perhaps it was lost."""
        if now >= self.ask_at:
            self._pause_s = min(2 * self._pause_s, ASK_LATEST_S)
            self.need(True)

    def take(self, body):
        """A piece. Raises MessageError."""
        _, offset, flags = stdin.decode(body)
        data = body[stdin.HEADER_BYTES + max(0, self._got - offset) :]
        if self._fd is None or self._ended or len(self._waiting) + len(data) > 2 * STDIN_WINDOW_BYTES:
            return
        if offset > self._got:
            if not self._asked:
                self.need(True)
            return
        self._got += len(data)
        self._waiting += data
        self._ended = bool(flags & stdin.END) and offset + len(body) - stdin.HEADER_BYTES == self._got
        self._asked, self._pause_s = False, ASK_S
        self._write()

    def _write(self):
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()  # nobody reads it any more
            return self.need(True)
        if bool(self._waiting) != self._watched:
            self._watched = not self._watched
            if self._watched:
                self._watch(self._fd, POLLOUT, self._write)
            else:
                self._unwatch(self._fd)
        if self._ended and not self._waiting:
            return self.close()
        read = self._got - len(self._waiting)
        if not self._ended and read - self._told >= STEP_BYTES:
            self._told = read - read % STEP_BYTES
            return self.need(False)
        self._expect()

    def _expect(self):
        may_come = self._fd is not None and not self._ended and self._got < self._told + STDIN_WINDOW_BYTES
        self.ask_at = time.monotonic() + self._pause_s if may_come else None

    def close(self):
        """The process has ended, or reads no more, or has been given all."""
        if self._fd is not None:
            self._unwatch(self._fd)
            os.close(self._fd)
            self._fd, self.ask_at = None, None
            del self._waiting[:]
