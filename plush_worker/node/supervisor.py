"""A supervisor: the process that stands over one op, from its start until everything of it is stored above.

It is forked from the node program, not exec'd, and outlives it: it owns the op's processes, pipes, spool and end. It
listens in the state folder, where the next incarnation finds it, and speaks frames with one node program at a time.
One thread, poll. Entry point: become().
"""

import gc
import os
import time
from _collections import deque
from _signal import SIG_DFL, SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGTERM, set_wakeup_fd, signal
from _socket import AF_UNIX, SOCK_STREAM, socket
from _struct import Struct
from itertools import islice
from select import POLLIN, POLLOUT, poll

from . import frames, messages, op_files, process, spares
from .limits import MAX_DETAIL_CHARS, ORPHAN_BLOCKS_S, OUTPUT_LATEST_MS, OUTPUT_SILENCE_MS, STOP_GRACE_S
from .spool import SpoolFile, Storage, Stream
from .stops import Stops

BATCH_BYTES = 1 << 17  # of output given to the socket at a time: what a state or a log line may have to wait behind
MAX_BUFFERS_COUNT = 512  # of one system call; the kernel takes 1024
READS_COUNT = 8  # pieces read from a pipe before the others get their turn
ESCAPED_S = 1.0  # how long the pipes stay open after all descendants were killed: somebody else may hold them
TTL_CHECK_S = 60.0  # poll() doesn't count time asleep, so the time-to-live is looked at this often
STARTED, FINAL = 1, 2  # ordinals of the state events

# A frame's header and that of an OUTPUT body in one: encoded in two steps, every piece is copied twice
_PIECE_HEAD = Struct("!IBBHQQBBQ")
_PIECE_OVERHEAD = _PIECE_HEAD.size - 4
COUNT = Struct("!Q")


class Order:
    """What a supervisor is to do."""

    __slots__ = ("command", "environment", "home", "lossless", "more", "op", "shell", "timeout_s", "ttl_s")

    def __init__(self, op, command, environment, shell, home, ttl_s, timeout_s, lossless, more=None):
        self.op, self.command, self.environment = op, command, environment
        self.shell, self.home = shell, home  # bytes
        self.ttl_s, self.timeout_s = ttl_s, timeout_s
        self.lossless = lossless  # while orphaned a full spool blocks, be it for long
        self.more = more  # the values of an OP that inlet.py is to start


def become(order, connection, lock_fd, folder):
    """Turn this process, just forked, into the supervisor of ``order``. Doesn't return.

    ``connection`` is its socket to the node program, ``lock_fd`` the locked file ``op-N`` in ``folder``.
    """
    try:
        _settle_in({connection.fileno(), lock_fd}, folder)
        _supervise(order, connection, lock_fd, folder)
    finally:
        os._exit(0)


def stand_by(connection, folder, order_of):
    """Turn this process, just forked, into a spare. ``order_of(values)`` is the order in the values of an OP."""
    try:
        signal(SIGTERM, SIG_DFL)
        _settle_in({connection.fileno()}, folder)
        process.become_subreaper(b"plush-spare")  # here, since it takes a moment
        given = spares.receive(connection)
        if given is not None:
            _supervise(order_of(messages.decode(frames.OP, given[0])), connection, given[1], folder)
    finally:
        os._exit(0)


def _settle_in(keep, folder):
    set_wakeup_fd(-1)
    os.setsid()
    process.close_inherited(keep)
    if hasattr(gc, "freeze"):
        gc.freeze()  # what was forked stays shared, and its descriptors' numbers aren't closed again
    else:
        gc.disable()
    os.chdir(folder)


def _supervise(order, connection, lock_fd, folder):
    supervisor = Supervisor(order, connection, lock_fd, folder)
    try:
        supervisor.run()
    except BaseException as error:
        supervisor.crash(error)


class Pipe:
    """A pipe that the op's processes write into, and the stream that it fills."""

    __slots__ = ("cut_at", "fd", "first_at", "last_bytes", "stream", "watched")

    def __init__(self, stream):
        self.stream = stream
        self.fd = None  # None: not open yet, or ended
        self.watched = False
        self.last_bytes = None  # how much is still read; None: until it ends
        self.cut_at = self.first_at = None  # monotonic: when what is pending becomes a piece; when its first byte came


class Supervisor:
    """The state of one op and the loop around it."""

    def __init__(self, order, connection, lock_fd, folder):
        self.order, self.folder = order, folder
        self._lock_fd = lock_fd
        self._poll = poll()
        self._handlers = {}  # fd -> callback()
        self._connection, self._decoder = None, None
        self._resumed = False  # whether the node program has said where to go on
        self._out, self._out_events = deque(), 0  # buffers for the socket
        self._events, self._event_at = [], None  # (ordinal, frame) not acknowledged; when the unsent may wait no longer
        self._unsent_events = []
        storage = Storage(SpoolFile("op-%d.spool" % order.op))
        self._pipes = [Pipe(Stream(number, storage)) for number in (messages.STDOUT, messages.STDERR)]
        self._main = None  # pid, until it is reaped
        self._inlet = None
        self._stops = Stops(lambda text: self._log("op %d: %s" % (order.op, text)))
        self._final = False
        self._drain_until = None  # monotonic, after a kill: whoever holds a pipe then isn't waited for
        self._orphaned_at = None
        self._closing = False  # nothing more is wanted from it
        self._refused_reported = False
        self._timeout_at = None
        self._beat_at = process.boottime()
        self._attach(connection, resumed=True)

    # --- the loop

    def run(self):
        """Until the op is closed or its time-to-live is over."""
        self._begin()
        while not self._done():
            self._send()
            for fd, _ in self._poll.poll(self._wait_ms(time.monotonic())):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
            self._on_time(time.monotonic())
        self._leave()

    def crash(self, error):
        """A defect: end what was started, leave a record, say so."""
        where = error.__traceback__
        while where.tb_next is not None:
            where = where.tb_next
        code = where.tb_frame.f_code
        text = "supervisor of op %d: %s: %s (%s:%s)" % (
            self.order.op, type(error).__name__, error, code.co_filename, where.tb_lineno or code.co_name)  # fmt: skip
        for _ in range(1000):
            left = process.descendants(os.getpid())
            if not left or process.kill_all(left) == len(left):
                break
            self._reap()
        try:
            op_files.record_defect(self._lock_fd, text)
            self._connection.setblocking(True)
            self._connection.send(frames.encode(frames.LOG, b"", messages.encode(frames.LOG, text=text)))
        except (OSError, AttributeError):
            pass  # nobody listens

    def _watch(self, fd, events, handler):
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def _unwatch(self, fd):
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _wait_ms(self, now):
        times = [now + TTL_CHECK_S, self._beat_at + self.order.ttl_s - process.boottime() + now]
        times += [pipe.cut_at for pipe in self._pipes]
        times += [self._event_at, self._stops.kill_at, self._timeout_at, self._drain_until]
        times.append(self._inlet and self._inlet.ask_at)
        if self._may_become_lossy():
            times.append(self._orphaned_at + ORPHAN_BLOCKS_S)
        first = min(at for at in times if at is not None)
        return max(0, int((first - now) * 1000 + 0.999))

    def _on_time(self, now):
        for pipe in self._pipes:
            if pipe.cut_at is not None and now >= pipe.cut_at:
                self._cut(pipe)
        if self._event_at is not None and now >= self._event_at:
            self._event_at = None
        if self._stops.kill_at is not None and now >= self._stops.kill_at:
            self._kill()
        if self._timeout_at is not None and now >= self._timeout_at:
            self._timeout_at = None
            self._stops.order(SIGTERM, STOP_GRACE_S, "timeout")
        if self._drain_until is not None and now >= self._drain_until:
            self._drain_until = None
            self._give_up_pipes()
        if self._inlet and self._inlet.ask_at is not None:
            self._inlet.on_time(now)
        if self._may_become_lossy() and now >= self._orphaned_at + ORPHAN_BLOCKS_S:
            for pipe in self._pipes:
                pipe.stream.lossy = True
                self._watch_pipe(pipe)
        if process.boottime() - self._beat_at >= self.order.ttl_s and not self._closing:
            self._closing = True
            self._stops.order(SIGTERM, STOP_GRACE_S, "ttl")

    def _done(self):
        ended = self._final and all(pipe.stream.ended for pipe in self._pipes)
        return self._closing and ended and self._stops.kill_at is None

    def _may_become_lossy(self):
        return self._orphaned_at is not None and not self.order.lossless and not self._pipes[0].stream.lossy

    # --- start and end of the processes

    def _begin(self):
        if not process.become_subreaper(b"plush-op"):
            self._log("this host has no subreaper: processes that detach themselves may escape a kill")
        wakeup_r, wakeup_w = os.pipe()
        for fd in (wakeup_r, wakeup_w):
            os.set_blocking(fd, False)
        set_wakeup_fd(wakeup_w)
        for number in (SIGCHLD, SIGHUP, SIGINT, SIGPIPE):
            signal(number, _ignore)
        signal(SIGTERM, self._on_sigterm)
        self._watch(wakeup_r, POLLIN, lambda: self._wake_up(wakeup_r))
        try:
            op_files.record_begin(self._lock_fd)
            self._listen()
            order = self.order
            if order.more:
                from . import inlet

                self._inlet, self._main, *fds = inlet.start(order, self.folder, self._watch, self._unwatch, self._say)
            else:
                self._main, *fds = process.start(
                    order.command, order.environment, order.shell, order.home, self.folder)  # fmt: skip
        except (OSError, ValueError) as error:
            return self._fail(process.reason(error, ""))
        self._stops.session = self._main
        op_files.record_session(self._lock_fd, self._main, process.start_time(self._main))
        for pipe, fd in zip(self._pipes, fds):
            os.set_blocking(fd, False)
            pipe.fd = fd
            self._watch_pipe(pipe)
        if order.timeout_s:
            self._timeout_at = time.monotonic() + order.timeout_s
        self._state(STARTED, "started")

    def _on_sigterm(self, number, frame):
        self._stops.terminated = True  # the loop is woken up; nothing is decided in the middle of something else

    def _listen(self):
        listener = socket(AF_UNIX, SOCK_STREAM)
        listener.setblocking(False)
        listener.bind("op-%d.sock" % self.order.op)  # relative: a path of more than 104 bytes can't be bound
        listener.listen(4)
        self._watch(listener.fileno(), POLLIN, lambda: self._accept(listener))

    def _fail(self, reason):
        for pipe in self._pipes:
            pipe.stream.cut(end=True)
        self._state(FINAL, "failed", detail=reason)

    def _wake_up(self, wakeup_fd):
        try:
            os.read(wakeup_fd, 4096)
        except BlockingIOError:
            pass
        if self._stops.terminated:
            self._stops.terminated = False
            self._stops.order(SIGTERM, STOP_GRACE_S, "signal")
        self._reap()

    def _reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self._stops.kill_at is not None:
                    self._kill()  # nothing is left to wait for
                return
            if not pid:
                return
            if pid == self._main:
                self._main = None
                self._main_ended(status)

    def _main_ended(self, status):
        if self._inlet:
            self._inlet.close()
        if self.order.more:
            op_files.remove_part(self.folder, self.order.op)
        for pipe in self._pipes:
            self._read(pipe)
        self._state(FINAL, *self._stops.verdict(status))
        self._check_end()

    def _state(self, ordinal, state, code=None, number=None, detail=""):
        body = messages.encode(
            frames.STATE, op=self.order.op, ordinal=ordinal, state=state, code=code, signal=number,
            detail=detail[:MAX_DETAIL_CHARS])  # fmt: skip
        if ordinal == FINAL:
            self._final = True
            op_files.record_final(self._lock_fd, body)
        event = ordinal, frames.encode(frames.STATE, b"", body)
        self._events.append(event)
        self._unsent_events.append(event)
        # A command that is over at once costs one write: its start may wait a little for its end
        self._event_at = time.monotonic() + OUTPUT_SILENCE_MS / 1000 if ordinal == STARTED else None

    def _kill(self):
        if self._stops.kill(self._main):
            self._drain_until = time.monotonic() + ESCAPED_S

    # --- output

    def _give_up_pipes(self):
        """All descendants are killed: whoever still holds a pipe isn't one. What it holds now is still read."""
        from .sessions import readable_bytes

        for pipe in self._pipes:
            if pipe.fd is not None:
                pipe.last_bytes = readable_bytes(pipe.fd)
                if pipe.last_bytes:
                    self._read(pipe)
                else:
                    self._end(pipe)

    def _watch_pipe(self, pipe):
        """Watch a pipe while its stream takes more."""
        wanted = pipe.fd is not None and not pipe.stream.full()
        if wanted and not pipe.watched:
            self._watch(pipe.fd, POLLIN, lambda: self._read(pipe))
        elif pipe.watched and not wanted:
            self._unwatch(pipe.fd)
        pipe.watched = wanted

    def _read(self, pipe):
        """Read what there is, up to a few pieces; whether there was something."""
        stream, count = pipe.stream, 0
        while pipe.fd is not None and count < READS_COUNT and not stream.full():
            wanted = stream.wanted() if pipe.last_bytes is None else min(stream.wanted(), pipe.last_bytes)
            try:
                data = os.read(pipe.fd, wanted)
            except BlockingIOError:
                break
            if not data:
                self._end(pipe)
                break
            stream.add(data)
            count += 1
            if pipe.last_bytes is not None:
                pipe.last_bytes -= len(data)
            if len(data) < wanted and self._main is not None:
                break  # the pipe is empty; whether it has ended the next poll tells
        if count:
            self._schedule_cut(pipe)
        self._watch_pipe(pipe)
        return count > 0

    def _schedule_cut(self, pipe):
        """When the pending bytes become a piece, if nothing more comes. An orphan waits for full pieces."""
        if pipe.fd is None:
            return  # _end() has set it
        if pipe.stream.offset == pipe.stream.cut_offset or not self._resumed:
            pipe.cut_at = pipe.first_at = None
            return
        now = time.monotonic()
        if pipe.first_at is None:
            pipe.first_at = now
        pipe.cut_at = min(now + OUTPUT_SILENCE_MS / 1000, pipe.first_at + OUTPUT_LATEST_MS / 1000)

    def _cut(self, pipe):
        pipe.cut_at = pipe.first_at = None
        pipe.stream.cut(end=pipe.fd is None)

    def _end(self, pipe):
        """A pipe has ended. The last piece waits a moment for the other and the process, so that all is one write."""
        if pipe.watched:
            self._unwatch(pipe.fd)
            pipe.watched = False
        os.close(pipe.fd)
        pipe.fd = None
        pipe.cut_at = time.monotonic() + OUTPUT_SILENCE_MS / 1000
        self._check_end()

    def _check_end(self):
        if self._final and all(pipe.fd is None for pipe in self._pipes):
            self._timeout_at = None
            for pipe in self._pipes:
                if not pipe.stream.ended:
                    self._cut(pipe)

    # --- the node program

    def _accept(self, listener):
        try:
            fd, _ = listener._accept()
        except OSError:
            return
        self._detach()
        self._attach(socket(AF_UNIX, SOCK_STREAM, 0, fd), resumed=False)

    def _attach(self, connection, resumed):
        connection.setblocking(False)
        self._connection, self._decoder = connection, frames.Decoder()
        self._resumed = resumed
        self._watch(connection.fileno(), POLLIN, self._receive)

    def _detach(self):
        """The node program is gone: whatever isn't acknowledged is sent to the next."""
        if self._connection is not None:
            self._unwatch(self._connection.fileno())
            self._connection.close()
            self._connection = None
        self._resumed = False
        self._out.clear()
        self._unsent_events = list(self._events)
        if self._orphaned_at is None:
            self._orphaned_at = time.monotonic()
        for pipe in self._pipes:
            pipe.stream.rewind()

    def _receive(self):
        try:
            data = self._connection.recv(65536)
        except BlockingIOError:
            return self._send()
        except OSError:
            data = b""
        if not data:
            return self._detach()
        try:
            for kind, _, _, _, body in self._decoder.feed(data):
                self._obey(kind, body)
        except (frames.FrameError, messages.MessageError) as error:
            self._log("op %d: %s" % (self.order.op, error))
            self._detach()

    def _obey(self, kind, body):
        if kind == frames.BEAT:
            self._beat_at = process.boottime()
        elif kind == frames.ACK:
            self._acknowledge(messages.decode(kind, body))
        elif kind == frames.SIGNAL:
            values = messages.decode(kind, body)
            grace_ms = values["grace_ms"]
            self._stops.order(values["signal"], None if grace_ms < 0 else grace_ms / 1000, "signal")
        elif kind == frames.STDIN and self._inlet:
            self._inlet.take(body)
        elif kind == frames.CLOSE:
            self._closing = True

    def _acknowledge(self, values):
        self._events = [event for event in self._events if event[0] > values["ordinal"]]
        for pipe, offset in zip(self._pipes, (values["stdout"], values["stderr"])):
            pipe.stream.acknowledge(offset)
            if values["resume"]:
                pipe.stream.rewind()
        if values["resume"]:
            self._unsent_events = list(self._events)
            self._resumed, self._orphaned_at = True, None
            if self._inlet:
                self._inlet.need(True)
        for pipe in self._pipes:
            if values["resume"]:
                pipe.stream.lossy = False
                self._schedule_cut(pipe)
            self._watch_pipe(pipe)

    def _log(self, text):
        self._say(frames.LOG, messages.encode(frames.LOG, text=text[:MAX_DETAIL_CHARS]))

    def _say(self, kind, body):
        if self._connection is not None:
            self._out.append(frames.encode(kind, b"", body))

    def _send(self):
        """Give the socket what it takes: states first, then pieces of both streams in turn."""
        while self._connection is not None:
            if self._resumed:
                self._fill()
            if not self._out:
                break
            try:
                count = self._connection.sendmsg(list(islice(self._out, MAX_BUFFERS_COUNT)))
            except BlockingIOError:
                self._poll.modify(self._connection.fileno(), POLLIN | POLLOUT)
                return
            except OSError:
                return self._detach()
            while count and count >= len(self._out[0]):
                count -= len(self._out.popleft())
            if count:
                self._out[0] = memoryview(self._out[0])[count:]
        if self._connection is not None:
            self._poll.modify(self._connection.fileno(), POLLIN)

    def _fill(self):
        unsent = [pipe.stream for pipe in self._pipes if pipe.stream.unsent()]
        waiting = bool(self._out)
        if self._unsent_events and (unsent or self._event_at is None):
            # Behind what is half sent, before all the rest
            self._out.extend(frame for _, frame in self._unsent_events)
            self._unsent_events, self._event_at = [], None
        if waiting:
            return
        size = 0
        while unsent and size < BATCH_BYTES:
            for stream in unsent:
                size += self._put_piece(stream)
            unsent = [stream for stream in unsent if stream.unsent()]

    def _put_piece(self, stream):
        piece, data = stream.take()
        if piece.flags & messages.GAP:
            data = COUNT.pack(piece.length)
        length = _PIECE_OVERHEAD + len(data)
        self._out.append(_PIECE_HEAD.pack(
            length, frames.OUTPUT, 0, 0, 0, self.order.op, stream.number, piece.flags, piece.offset))  # fmt: skip
        if data:
            self._out.append(data)
        return length

    # --- the end

    def _leave(self):
        """Say the last, remove the op's files; the last one out removes the state folder."""
        attached = self._connection is not None
        if attached:
            self._send()
        op_files.remove(self.folder, self.order.op)
        if not attached:
            op_files.remove_folder_if_unused(self.folder)


def _ignore(number, frame):
    """A handler, not SIG_IGN, which would leak into the command."""
