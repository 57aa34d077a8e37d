"""This host's ops: whether one may start, its supervisor, and what passes between the supervisor and the parent.

Holds no output: pieces pass from a supervisor's socket upward, and while the uplink is full the sockets aren't read.
Entry point: Ops. ``journal.py`` says what was started, ``supervisor.py`` does the work.
"""

import os
import time
from _signal import NSIG, SIGKILL, SIGTERM
from select import POLLIN, poll

from . import frames, messages, op_files, process, spares, supervisor
from .journal import Journal
from .limits import DEFAULT_TTL_S, MAX_CONTROL_QUEUE_BYTES, MAX_OPS_HELD, STDIN_WINDOW_BYTES

RECEIVE_BYTES = 1 << 17
BEAT_S = 1.0  # the owner's beat is passed on at most this often
QUIT_GRACE_MS = 2000
END_WAIT_S = 1.0  # for a supervisor whose op is closed
STRAYS_S = 60.0
COUNT = supervisor.COUNT
_MORE = {"built_in", "stdin", "cwd"}  # fields of OP that inlet.py understands


class Tail:
    """How the output of an op without a supervisor ends."""

    NONE, EMPTY, LOST = range(3)  # it isn't known; nothing was ever started; a part of unknown size was never read


class Held:
    """A supervisor and the socket to it."""

    def __init__(self, op, pid=None):
        self.op, self.pid = op, pid  # pid None: it was forked by an earlier incarnation
        self.socket = None
        self.decoder = frames.Decoder()
        self.out = bytearray()
        # Passed upward, by stream; of one that was taken over not known before an ACK tells where to go on
        self.offsets = {} if pid is None else {messages.STDOUT: 0, messages.STDERR: 0}
        self.ended = set()  # streams whose end was passed upward
        self.final = None  # body of its final STATE, once passed upward
        self.closing = self.paused = False
        self.exited = pid is None


class Ops:
    """``node`` offers state_dir, order, hello, loop, emit(kind, body), uplink_full(), log(text)."""

    def __init__(self, node):
        self._node, self._loop = node, node.loop
        self._folder = os.path.abspath(node.state_dir)
        self._journal = Journal(os.path.join(self._folder, "journal"))
        self.held = {}  # op -> Held, while it has a supervisor
        self._over = {}  # op -> (body of its final STATE, Tail): no supervisor, not closed
        self._paused = set()  # Helds that aren't read, since the uplink is full
        self._login = self._environment = self._spare = None
        self._beat_at = None
        self._quitting = None
        self._strays = set()  # what closed ops have left running: children of this program now
        self._strays_timer = None
        try:
            self._journal.admit(node.order)
        except OSError as error:
            node.log("journal: %s" % process.reason(error, self._folder))

    # --- frames from the parent

    def handle(self, kind, epoch, body):
        """Obey a frame of kind OP, SIGNAL, ACK, CLOSE or BEAT. A body that isn't sound is logged and dropped."""
        try:
            if kind == frames.BEAT:
                self._beat()
            elif kind == frames.OP:
                self._on_op(messages.decode(kind, body), body)
            elif kind == frames.SIGNAL:
                self._on_signal(messages.decode(kind, body), body)
            elif kind == frames.ACK:
                self._on_ack(messages.decode(kind, body), body)
            elif kind == frames.CLOSE:
                self._on_close(messages.decode(kind, body)["ops"])
        except messages.MessageError as error:
            self._node.log("dropped: %s" % error)

    def _beat(self):
        now = self._loop_now()
        if self._beat_at is None or now - self._beat_at >= BEAT_S:
            self._beat_at = now
            frame = frames.encode(frames.BEAT, b"", messages.encode(frames.BEAT))
            for held in self.held.values():
                self._send(held, frame)

    @staticmethod
    def _loop_now():
        return time.monotonic()

    def _on_op(self, values, body):
        op = values["op"]
        if op in self._over:
            return self._tell_over(op, None)
        if op in self.held or op in self._journal.states:
            return  # known: its supervisor tells
        if not 0 < op < 1 << 63:
            raise messages.MessageError("OP: no op number: %d" % op)
        signal = self._journal.tombstones.get(op)
        if signal is None and not self._journal.is_new(op):
            return self.end_at_once(op, "unknown", Tail.NONE, "not in the journal, and older than this incarnation")
        if type(values["env"]) is not dict or any(type(value) is not str for value in values["env"].values()):
            raise messages.MessageError("OP: env is no mapping of text to text")
        if len(self.held) >= MAX_OPS_HELD:
            return self.end_at_once(op, "failed", Tail.EMPTY, "%d ops are held here already" % MAX_OPS_HELD)
        try:
            lock_fd = self._accept(op)
        except OSError as error:
            return self.end_at_once(op, "failed", Tail.EMPTY, process.reason(error, self._folder))
        try:
            if signal is not None:
                self.end_at_once(op, "killed", Tail.EMPTY, "signal", signal)
            elif self._quitting is not None:
                self.end_at_once(op, "failed", Tail.EMPTY, "this node program is ending")
            else:
                self._start(values, body, lock_fd)
        except OSError as error:
            op_files.remove(self._folder, op)
            self.end_at_once(op, "failed", Tail.EMPTY, process.reason(error, "the supervisor's process"))
        finally:
            os.close(lock_fd)

    def _accept(self, op):
        """The locked file of ``op``, journaled; the file first, so that one without the other was never started."""
        lock_fd = op_files.make(self._folder, op)
        try:
            self._journal.accept(op)
        except OSError:
            os.close(lock_fd)
            op_files.remove(self._folder, op)
            raise
        return lock_fd

    def _start(self, values, body, lock_fd):
        if self._login is None:
            self._login, self._environment = process.login(), process.session_environment()
            process.become_subreaper()
        order = self._order(values)
        spare, self._spare = self._spare, None
        if spare is not None and len(body) <= spares.ORDER_BYTES and spares.give(spare.socket, body, lock_fd):
            spare.op, held = order.op, spare
        else:
            if spare is not None:
                spare.socket.close()
            held = self._fork(lambda connection: supervisor.become(order, connection, lock_fd, self._folder), order.op)
        self.held[order.op] = held
        self.attach(held, held.socket)

    def _fork(self, become, op=None):
        pid, connection = spares.fork(become)
        held = Held(op, pid)
        held.socket = connection
        self._loop.on_child_exit(pid, lambda status: self._on_exit(held))
        return held

    def _order(self, values):
        environment = dict(self._environment)
        hello, ranks = self._node.hello, values.get("ranks")
        environment[b"PLUSH_HOST"] = hello["name"].encode("utf-8", "replace")
        if type(ranks) is dict and "%d" % hello["host"] in ranks:
            environment[b"PLUSH_INDEX"] = b"%d" % ranks["%d" % hello["host"]]
        for name, value in values["env"].items():
            environment[name.encode("utf-8", "surrogateescape")] = value.encode("utf-8", "surrogateescape")
        return supervisor.Order(
            values["op"], values["command"], environment, self._login[0], self._login[1],
            values["ttl_s"] if values["ttl_s"] > 0 else DEFAULT_TTL_S, max(0, values["timeout_s"]),
            values.get("lossless") is True, values if _MORE.intersection(values) else None,
        )  # fmt: skip

    def _keep_spare(self):
        """An op is over: have a supervisor wait for the next. Not before this incarnation has started one itself."""
        if self._spare is None and self._quitting is None and self._login is not None:
            try:
                self._spare = self._fork(lambda its: supervisor.stand_by(its, self._folder, self._order))
            except OSError:
                pass  # the next op tells, if it is still so

    def _on_signal(self, values, body):
        op, ref, number = values["op"], values["ref"], values["signal"]
        if not 0 < number < NSIG:
            raise messages.MessageError("SIGNAL: no signal %d" % number)
        if op in self._journal.states:
            return  # performed
        if op <= self._journal.dropped and values["grace_ms"] < 0 and number != SIGKILL:
            return  # perhaps performed; unlike a kill it may not be repeated
        try:
            self._journal.signal(op, ref, number)
        except OSError as error:
            self._node.log(
                "signal %d to op %d isn't journaled: %s" % (number, ref, process.reason(error, self._folder))
            )
        if ref in self.held:
            self._send(self.held[ref], frames.encode(frames.SIGNAL, b"", body))

    def _on_ack(self, values, body):
        held = self.held.get(values["op"])
        if held is not None:
            if values["resume"]:
                held.offsets = {messages.STDOUT: values["stdout"], messages.STDERR: values["stderr"]}
            self._send(held, frames.encode(frames.ACK, b"", body))
        elif values["op"] in self._over and values["resume"]:
            self._tell_over(values["op"], values)

    def _on_close(self, ops):
        if any(type(op) is not int for op in ops):
            raise messages.MessageError("CLOSE: ops are no numbers")
        try:
            self._journal.close(ops)
        except OSError as error:
            self._node.log("journal: %s" % process.reason(error, self._folder))
        for op in ops:
            if op in self.held:
                self.close(self.held[op])
            elif self._over.pop(op, None) is not None:
                op_files.remove(self._folder, op)

    def close(self, held):
        """All of its op is stored: its supervisor may end."""
        held.closing = True
        body = messages.encode(frames.CLOSE, ops=[held.op])
        self._send(held, frames.encode(frames.CLOSE, b"", body))

    # --- ops without a supervisor

    def end_at_once(self, op, state, tail, detail, signal=None):
        """``op`` has ended so, without a supervisor."""
        body = messages.encode(
            frames.STATE, op=op, ordinal=supervisor.FINAL, state=state, code=None, signal=signal, detail=detail
        )
        self.settle(op, body, tail)

    def settle(self, op, body, tail):
        """``op`` has no supervisor and won't have one: say its end."""
        self._over[op] = body, tail
        if len(self._over) > MAX_OPS_HELD:
            self._on_close([min(self._over)])
        self._tell_over(op, None)

    def _tell_over(self, op, acknowledged):
        """The final state, and the ends of the streams; those of a lost one where ``acknowledged`` says."""
        body, tail = self._over[op]
        if acknowledged is None or acknowledged["ordinal"] < supervisor.FINAL:
            self._node.emit(frames.STATE, body)
        for stream, name in ((messages.STDOUT, "stdout"), (messages.STDERR, "stderr")):
            if tail == Tail.EMPTY:
                self._node.emit(frames.OUTPUT, messages.encode_output(op, stream, 0, b"", messages.END))
            elif tail == Tail.LOST and acknowledged is not None:
                self._emit_lost(op, stream, acknowledged[name])

    def _emit_lost(self, op, stream, offset):
        flags = messages.END | messages.GAP
        self._node.emit(frames.OUTPUT, messages.encode_output(op, stream, offset, COUNT.pack(0), flags))

    # --- supervisors

    def attach(self, held, connection):
        """This is the socket to its supervisor."""
        connection.setblocking(False)
        held.socket = connection
        self._flush(held)

    def _watch(self, held):
        if held.socket is not None:
            self._loop.watch(
                held.socket.fileno(),
                None if held.paused else lambda: self._read(held),
                (lambda: self._flush(held)) if held.out else None,
            )

    def _send(self, held, frame):
        if len(held.out) > MAX_CONTROL_QUEUE_BYTES:
            return  # it hangs
        held.out += frame
        if held.socket is not None:
            self._flush(held)  # else it is being connected

    def _flush(self, held):
        try:
            while held.out:
                del held.out[: held.socket.send(held.out)]
        except BlockingIOError:
            pass
        except OSError:
            del held.out[:]  # reading tells its end
        self._watch(held)

    def _read(self, held):
        try:
            data = held.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self._on_eof(held)
        try:
            for kind, _, _, _, body in held.decoder.feed(data):
                self._pass_up(held, kind, body)
        except (frames.FrameError, messages.MessageError) as error:
            self._node.log("the supervisor of op %d: %s" % (held.op, error))
            return self._on_eof(held)
        if self._node.uplink_full():
            held.paused = True
            self._paused.add(held)
            self._watch(held)

    def _pass_up(self, held, kind, body):
        if kind == frames.OUTPUT:
            _, stream, flags, offset = messages.decode_output(body)
            if flags & messages.GAP:
                held.offsets[stream] = offset + COUNT.unpack_from(body, messages.OUTPUT_HEADER_BYTES)[0]
            else:
                held.offsets[stream] = offset + len(body) - messages.OUTPUT_HEADER_BYTES
            if flags & messages.END:
                held.ended.add(stream)
            self._node.emit(kind, body)
        elif kind == frames.STATE:
            if messages.decode(kind, body)["ordinal"] == supervisor.FINAL:
                held.final = body
            self._node.emit(kind, body)
        elif kind == frames.NEED:
            self._node.emit(kind, body)
        elif kind == frames.LOG:
            self._node.log(messages.decode(kind, body)["text"])

    def pass_stdin(self, op, frame):
        """A piece of standard input for the supervisor of ``op``, which asks for it again when it misses it."""
        held = self.held.get(op)
        if held is not None and len(held.out) <= STDIN_WINDOW_BYTES:
            self._send(held, frame)

    def resume_reading(self):
        """The uplink has room again."""
        paused, self._paused = self._paused, set()
        for held in paused:
            held.paused = False
            self._watch(held)

    def _on_eof(self, held):
        if held.socket is None:
            return
        self._loop.unwatch(held.socket.fileno())
        held.socket.close()
        held.socket = None
        self._paused.discard(held)
        if held.exited:
            self.on_gone(held)

    def _on_exit(self, held):
        held.exited = True
        if held.op is None:  # a spare, or one that was passed over
            held.socket.close()
            self._spare = None if self._spare is held else self._spare
        elif held.socket is None:
            self.on_gone(held)
        elif held.paused:  # what it said last is read when the uplink has room
            return

    def on_gone(self, held):
        """The supervisor has ended, and all that it said is passed on. What it left is swept unless it was closed."""
        self.held.pop(held.op, None)
        if held.closing:
            op_files.remove(self._folder, held.op)
            self._keep_spare()
        elif held.final is None or len(held.ended) < 2:
            self._on_lost(held)
        else:
            self._over[held.op] = held.final, Tail.LOST  # its time-to-live is over
        self._adopt_strays()
        self._check_quit()

    def _on_lost(self, held):
        self._sweep()
        found = op_files.look_up(self._folder, held.op)
        if found.session is not None:
            from .sessions import kill_session

            kill_session(*found.session)
        self._node.log("op %d: its supervisor was lost%s" % (held.op, found.defect))
        if held.final is None:
            self.end_at_once(held.op, "killed", Tail.LOST, "supervisor lost", SIGKILL)
        else:
            self._over[held.op] = held.final, Tail.LOST
        for stream, offset in held.offsets.items():
            if stream not in held.ended:
                self._emit_lost(held.op, stream, offset)

    # --- processes without a supervisor

    def _foreign_children(self):
        """Children of this program that it didn't start: what supervisors have left. Its own stay in its session."""
        own, session = {held.pid for held in self.held.values()}, os.getsid(0)
        if self._spare is not None:
            own.add(self._spare.pid)
        for pid in process.children(os.getpid()):
            status = process.stat(pid)
            if pid not in own and status and int(status[3]) != session:
                yield pid, status[0] == b"Z"

    def _sweep(self):
        """End what a lost supervisor has left to us."""
        for _ in range(1000):
            left = [pid for pid, dead in self._foreign_children() if pid not in self._strays and not _reap(pid, dead)]
            left += [found for pid in left for found in process.descendants(pid)]
            if not left or process.kill_all(left) == len(left):
                return
            time.sleep(0.001)

    def _adopt_strays(self):
        """Remember what closed ops have left running, and reap it when it ends."""
        self._strays = {pid for pid, dead in self._foreign_children() if not _reap(pid, dead)}
        self._loop.cancel(self._strays_timer)
        self._strays_timer = self._loop.call_later(STRAYS_S, self._adopt_strays) if self._strays else None

    # --- begin and end of an incarnation

    def recover(self):
        """Take over what earlier incarnations have left. To be called once, before any frame is handled."""
        from .takeover import Takeover

        Takeover(self._node, self, self._journal, self._folder).run()

    def living(self):
        """Whether a supervisor lives, so that the state folder must stay. Waits a moment for closed ones to end."""
        for held in list(self.held.values()):
            if held.closing and held.socket is not None and _wait_for_end(held.socket):
                self._on_eof(held)
            if held.socket is None and not held.exited:
                _reap(held.pid, True, 0)  # it is about to exit
                self._on_exit(held)
        return bool(self.held)

    def quit(self, kill, done):
        """End: with ``kill`` the living ops first, without it they live on. ``done()`` when nothing is to wait for."""
        self._quitting = done
        if self._spare is not None:
            self._spare.socket.close()  # which ends it
        if kill:
            for held in list(self.held.values()):
                body = messages.encode(frames.SIGNAL, op=0, ref=held.op, signal=int(SIGTERM), grace_ms=QUIT_GRACE_MS)
                self._send(held, frames.encode(frames.SIGNAL, b"", body))
                self.close(held)
        self._check_quit()

    def _check_quit(self):
        if self._quitting is not None and not any(held.closing for held in self.held.values()):
            done, self._quitting = self._quitting, _nothing
            done()


def _nothing():
    """After done() was called once."""


def _reap(pid, dead, options=os.WNOHANG):
    """Wait for ``pid``, a child, when it is ``dead``; returns that."""
    if dead:
        try:
            os.waitpid(pid, options)
        except ChildProcessError:
            pass
    return dead


def _wait_for_end(connection):
    """Whether a closed op's supervisor has ended within END_WAIT_S."""
    waiter, deadline = poll(), time.monotonic() + END_WAIT_S
    waiter.register(connection.fileno(), POLLIN)
    while time.monotonic() < deadline and waiter.poll(END_WAIT_S * 1000):
        try:
            if not connection.recv(RECEIVE_BYTES):
                return True
        except OSError:
            return True
    return False
