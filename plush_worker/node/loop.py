"""The loop: one thread that waits for descriptors and timers, and calls back; and the descriptors of a link."""

import os
import time
from select import POLLIN, POLLOUT, poll

from .frames import FrameError
from .hostwire import HostSetError
from .limits import MAX_CONTROL_QUEUE_BYTES

READ_BYTES = 1 << 16


class Loop:
    """``on_error(exception)`` hears of an exception in a callback, and the loop goes on."""

    def __init__(self):
        self.now, self.running = time.monotonic, True
        self.unflushed = {}  # channel -> True: has something to write before the next wait
        self.on_error = None
        self._poll = poll()
        self._watched = {}  # fd -> (on_readable, on_writable)
        self._timers, self._serial = [], 0  # [when, serial, callback]
        self.on_child_exit = None  # exits.py, which comes with the parts that start processes

    def watch(self, fd, on_readable=None, on_writable=None):
        """Call these when ``fd`` can be read (or has ended), or written. Replaces an earlier watch; neither ends it."""
        if on_readable is None and on_writable is None:
            return self.unwatch(fd)
        self._watched[fd] = on_readable, on_writable
        self._poll.register(fd, (POLLIN if on_readable else 0) | (POLLOUT if on_writable else 0))

    def unwatch(self, fd):
        """Forget ``fd``, before it is closed; harmless when it isn't watched."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call_later(self, delay_s, callback):
        """Call back once after ``delay_s``; returns a handle for cancel()."""
        self._serial += 1
        self._timers.append([self.now() + delay_s, self._serial, callback])
        return self._timers[-1]

    def cancel(self, timer):
        """Forget a timer; harmless when it is None or has fired."""
        if timer in self._timers:
            self._timers.remove(timer)

    def run(self):
        """Until ``running`` is False."""
        while self.running:
            while self.unflushed:
                self._call(self.unflushed.popitem()[0].flush)
            timeout_ms = max(0, (min(self._timers)[0] - self.now()) * 1000 + 0.999) if self._timers else None
            if not self.running:
                break
            for fd, events in self._poll.poll(timeout_ms):
                self._call(self._watched.get(fd, (None,))[0] if events & ~POLLOUT else None)
                self._call(self._watched.get(fd, (None, None))[1] if events & ~POLLIN else None)
            now = self.now()
            for timer in sorted(timer for timer in self._timers if timer[0] <= now):
                if timer in self._timers:  # not cancelled by the one before
                    self._timers.remove(timer)
                    self._call(timer[2])

    def _call(self, callback):
        try:
            if callback is not None:
                callback()
        except Exception as error:
            self.on_error(error)


class Channel:
    """The descriptors of ``link``. Calls ``on_frame(*frame)`` for each frame and ``on_end(code, detail)`` once."""

    def __init__(self, loop, link, read_fd, write_fd, on_frame, on_end):
        self.loop, self.link, self.read_fd, self.write_fd = loop, link, read_fd, write_fd  # None once closed
        self.on_frame, self.on_end, self.on_written = on_frame, on_end, lambda: None
        self.receive = self.receive_frames
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        link.notify = lambda: loop.unflushed.__setitem__(self, True)
        link.notify()
        self.pause(False)

    def pause(self, paused):
        """Stop reading, or go on."""
        if self.read_fd is not None:
            self.loop.watch(self.read_fd, None if paused else self._read)

    def _read(self):
        try:
            data = os.read(self.read_fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            return self.end("eof", error.strerror)
        self.receive(data) if data else self.end("eof", "")

    def receive_frames(self, data):
        """Take in bytes of frames."""
        try:
            self.dispatch(self.link.feed(data, self.loop.now()))
        except FrameError as error:
            self.end("protocol", str(error))

    def dispatch(self, found):
        """Hand on frames. A bad one ends the link; after a bad message it goes on."""
        for frame in found:
            try:
                if self.read_fd is not None:
                    self.on_frame(*frame)
            except (FrameError, HostSetError) as error:
                self.end("protocol", str(error))
            except Exception as error:
                self.loop.on_error(error)

    def flush(self):
        """Write what can be written without waiting."""
        while self.write_fd is not None:
            out = self.link.output()
            if self.link.control_bytes > MAX_CONTROL_QUEUE_BYTES:
                return self.end("limit", "it reads too slowly: too much is queued for it")
            if not out:
                self.loop.unwatch(self.write_fd)
                break
            try:
                self.link.wrote(os.write(self.write_fd, out), self.loop.now())
            except BlockingIOError:
                return self.loop.watch(self.write_fd, None, self.flush)
            except OSError:
                self.write_fd = self._close(self.write_fd)  # what it said last may still be read
        self.on_written()

    def end(self, code, detail):
        """Close the descriptors and say so, once."""
        if self.read_fd is not None:
            self.read_fd, self.write_fd = self._close(self.read_fd), self._close(self.write_fd)
            self.on_end(code, detail)

    def _close(self, fd):
        if fd is not None:
            self.loop.unwatch(fd)
            os.close(fd)
