"""The output of one op that nobody above has stored yet: two streams cut into pieces, in memory and then in a file.

A piece keeps its cut until it is acknowledged, so that a resend cuts alike. Nothing here grows without bound: a full
stream says so (its reader then leaves the pipe alone), or, where it may, loses pieces from its middle and says how
many bytes. Reads no pipe and knows no socket; SpoolFile is the only I/O.
"""

import os
from _collections import deque
from errno import ENOSPC

from .limits import OUTPUT_CUT_BYTES, SPOOL_DISK_BYTES, SPOOL_MEMORY_BYTES, SPOOL_PIECE_BYTES
from .messages import END, GAP


class Piece:
    """``length`` bytes at ``offset``, or with flag GAP as many that are lost."""

    __slots__ = ("data", "flags", "length", "offset", "slot")

    def __init__(self, offset, length, flags):
        self.offset, self.length, self.flags = offset, length, flags
        self.data = b""  # None: in the file
        self.slot = None


class SpoolFile:
    """A file at ``path`` without a name: made when first needed, gone with its process."""

    def __init__(self, path):
        self._path, self._fd = path, None

    def write(self, at, data):
        """Raises OSError when it doesn't take all of ``data``."""
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            os.unlink(self._path)
        if os.pwrite(self._fd, data, at) != len(data):
            raise OSError(ENOSPC, os.strerror(ENOSPC))

    def read(self, at, length):
        """Exactly ``length`` bytes that were written before."""
        return os.pread(self._fd, length, at)

    def clear(self):
        """Give the space back."""
        os.ftruncate(self._fd, 0)


class Storage:
    """Where the bytes of an op's pieces are: memory up to a limit, then slots of a file that are used again.

    A slot holds one aligned window of a stream, OUTPUT_CUT_BYTES long, so small pieces share it. ``refusal`` is the
    error with which the file last refused a piece, which then stays in memory; None once something was freed.
    """

    def __init__(self, file, memory_limit_bytes=SPOOL_MEMORY_BYTES):
        self.refusal = None
        self.memory_bytes = 0
        self._file, self._limit = file, memory_limit_bytes
        self._slots = {}  # (stream, window) -> [slot, pieces in it]
        self._free, self._made = [], 0

    def put(self, stream, piece, data):
        """Keep the bytes of ``piece``."""
        if self.memory_bytes + piece.length <= self._limit or not self._put_in_file(stream, piece, data):
            piece.data = bytes(data)
            self.memory_bytes += piece.length

    def _put_in_file(self, stream, piece, data):
        key = (stream, piece.offset // OUTPUT_CUT_BYTES)
        entry = self._slots.get(key)
        if entry is None:
            if not self._free:
                self._free.append(self._made)
                self._made += 1
            entry = [self._free[-1], 0]
        try:
            self._file.write(entry[0] * OUTPUT_CUT_BYTES + piece.offset % OUTPUT_CUT_BYTES, data)
        except OSError as error:
            self.refusal = error
            return False
        if not entry[1]:
            self._slots[key] = entry
            self._free.pop()
        entry[1] += 1
        piece.data, piece.slot = None, entry
        return True

    def get(self, piece):
        """The bytes of ``piece``."""
        if piece.data is not None:
            return piece.data
        return self._file.read(piece.slot[0] * OUTPUT_CUT_BYTES + piece.offset % OUTPUT_CUT_BYTES, piece.length)

    def free(self, stream, piece):
        """Forget the bytes of ``piece``."""
        if piece.data is not None:
            self.memory_bytes -= len(piece.data)
        else:
            piece.slot[1] -= 1
            if not piece.slot[1]:
                del self._slots[stream, piece.offset // OUTPUT_CUT_BYTES]
                self._free.append(piece.slot[0])
                if not self._slots:
                    self._free, self._made = [], 0
                    self._file.clear()
        piece.data, piece.slot = b"", None
        self.refusal = None

    def full(self):
        """Whether memory is used up and the file refuses more."""
        return self.refusal is not None and self.memory_bytes >= self._limit


class Stream:
    """One stream of an op. Bytes go in by add(), pieces come out by take() and go by acknowledge().

    ``lossy``: pieces beyond the first and the last ``limit_bytes`` give way to a gap. To be set only between
    rewind() and the next take().
    """

    def __init__(self, number, storage, limit_bytes=SPOOL_DISK_BYTES):
        self.number = number
        self.offset = 0  # of the next byte to come
        self.cut_offset = 0  # where the next piece begins
        self.ended = self.lossy = False
        self.kept_bytes = 0  # with what the pieces cost
        self._pending = bytearray()
        self._storage, self._limit = storage, limit_bytes
        self._sent, self._unsent = deque(), deque()
        self._tail, self._tail_bytes = deque(), 0  # behind the unsent ones, of a lossy stream; the first may be a gap

    def wanted(self):
        """How many bytes fill the current piece."""
        return OUTPUT_CUT_BYTES - self.offset % OUTPUT_CUT_BYTES

    def add(self, data):
        """The next bytes of the stream, at most wanted()."""
        self.offset += len(data)
        if len(data) == OUTPUT_CUT_BYTES:
            return self._append(data, 0)
        self._pending += data
        if self.offset % OUTPUT_CUT_BYTES == 0:
            self.cut()

    def cut(self, end=False):
        """Make a piece of what is pending; with ``end`` the last one, be it empty."""
        if self._pending or (end and not self.ended):
            data, self._pending = self._pending, bytearray()
            self.ended = end
            self._append(data, END if end else 0)

    def _append(self, data, flags):
        piece = Piece(self.cut_offset, len(data), flags)
        self.cut_offset += piece.length
        self._storage.put(self.number, piece, data)
        cost = piece.length + SPOOL_PIECE_BYTES
        self.kept_bytes += cost
        if not self._tail and not (self.lossy and self.kept_bytes > self._limit):
            self._unsent.append(piece)
            return
        self._tail.append(piece)
        self._tail_bytes += cost
        while self.lossy and self._tail_bytes > self._limit and len(self._tail) > 2:
            self._lose_one()

    def _lose_one(self):
        gap = self._tail.popleft()
        if not gap.flags & GAP:
            self._storage.free(self.number, gap)
            gap.flags = GAP
            freed = gap.length
        else:
            lost = self._tail.popleft()
            self._storage.free(self.number, lost)
            gap.length += lost.length
            freed = SPOOL_PIECE_BYTES + (0 if lost.flags & GAP else lost.length)
        self._tail.appendleft(gap)
        self._tail_bytes -= freed
        self.kept_bytes -= freed

    def full(self):
        """Whether no more should be read for now."""
        return self._storage.full() or (not self.lossy and self.kept_bytes >= self._limit)

    def unsent(self):
        """Whether take() has a piece."""
        return bool(self._unsent or self._tail)

    def take(self):
        """The next piece to send, and its bytes (none of a gap)."""
        if not self._unsent:
            self._unsent, self._tail, self._tail_bytes = self._tail, self._unsent, 0
        piece = self._unsent.popleft()
        self._sent.append(piece)
        return piece, self._storage.get(piece)

    def rewind(self):
        """All that isn't acknowledged is to be sent again."""
        pieces = list(self._sent) + list(self._unsent) + list(self._tail)
        self._sent, self._unsent, self._tail = deque(), deque(), deque()
        self._tail_bytes = bytes_so_far = 0
        for piece in pieces:
            cost = SPOOL_PIECE_BYTES + (0 if piece.flags & GAP else piece.length)
            bytes_so_far += cost
            if bytes_so_far <= self._limit and not self._tail:
                self._unsent.append(piece)
            else:
                self._tail.append(piece)
                self._tail_bytes += cost

    def acknowledge(self, offset):
        """All below ``offset`` is stored: forget it. The end is kept, since no offset acknowledges it."""
        while self._sent or self._unsent or self._tail:
            if not self._sent and not self._unsent:
                self._unsent, self._tail, self._tail_bytes = self._tail, self._unsent, 0
            pieces = self._sent or self._unsent
            piece = pieces[0]
            if piece.offset + piece.length > offset or (piece.flags & END and not piece.length):
                break
            if piece.flags & END:
                self._shrink(piece, piece.length)
                break
            pieces.popleft()
            self.kept_bytes -= SPOOL_PIECE_BYTES + (0 if piece.flags & GAP else piece.length)
            self._storage.free(self.number, piece)
        else:
            return
        if piece.flags & GAP and piece.offset < offset:
            piece.length -= offset - piece.offset
            piece.offset = offset

    def _shrink(self, piece, stored_bytes):
        self._storage.free(self.number, piece)
        self.kept_bytes -= stored_bytes
        piece.offset, piece.length = piece.offset + stored_bytes, 0
