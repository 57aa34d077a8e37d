"""Files to and from this host: the built-in processes of ops of kind ``deploy`` and ``fetch``, and their one format.

A stream of records: ``u32 length | MessagePack {path, kind, mode, size, sha256, target} | size bytes``, with path and
target as bytes, and kind ``file``, ``dir`` or ``link``. A file is written beside its place and renamed. Runs in a
process of its own (``inlet.py``), where dear imports do no harm; a problem is a line on stderr and the rest goes on.
"""

import os
import stat
from _struct import Struct

from . import messages

LENGTH = Struct("!I")
CHUNK_BYTES = 1 << 16
FILE, DIR, LINK = "file", "dir", "link"


def encode_record(path, kind, mode, size=0, sha256=b"", target=b"", **more):
    """The head of a record; ``size`` bytes follow it."""
    head = messages.pack(dict(more, path=path, kind=kind, mode=mode, size=size, sha256=sha256, target=target))
    return LENGTH.pack(len(head)) + head


def expand(path, home, environment):
    """``path`` (all are bytes) as people mean it on this host: {host} and {index}, ~, or from where commands start."""
    for name in (b"host", b"index"):
        path = path.replace(b"{%s}" % name, environment.get(b"PLUSH_" + name.upper(), b"{%s}" % name))
    if path == b"~" or path[:2] == b"~/":
        home, path = environment.get(b"HOME", home), path[2:].lstrip(b"/")
    return os.path.join(home, path)


def mark(folder, op):
    """A link in the state folder to the half-written file of ``op``, for whoever comes after its receiver's end."""
    return "%s/op-%d.part" % (folder, op)


def remove_marked(path):
    """Remove the half-written file that the mark at ``path`` names, and the mark."""
    try:
        os.unlink(os.path.join(os.path.dirname(path), os.readlink(path)))
    except OSError:
        pass  # there is none, or it is in its place already
    try:
        os.unlink(path)
    except OSError:
        pass


def run(order, values, mark_path):
    """Be the process of an op of kind deploy or fetch; returns the exit code."""
    if values["built_in"] == "deploy":
        return Receiver(order.home, order.environment, mark_path).run()
    if values["built_in"] == "fetch":
        return Sender(order.home, order.environment).run(values.get("paths", ()))
    os.write(2, b"no ops of this kind here\n")
    return 1


def _complain(path, error):
    text = getattr(error, "strerror", None) or str(error)
    os.write(2, b"%s: %s\n" % (path, text.encode("utf-8", "replace")))
    return 1


class Receiver:
    """Takes records from standard input."""

    def __init__(self, home, environment, mark_path):
        self._home, self._environment, self._mark = home, environment, mark_path
        self._index = environment.get(b"PLUSH_INDEX")
        self._folders = []  # (path, mode) of those made here: set at the end, since one may be closed to ourselves
        self._left = 0  # of the content of the current record

    def run(self):
        """All of them; 1 when one of them failed."""
        code = 0
        while True:
            head = self._exactly(LENGTH.size)
            if not head:
                break
            record = messages.unpack(self._exactly(LENGTH.unpack(head)[0]))
            self._left = record["size"]
            hosts = record.get("hosts")
            if hosts is None or self._index in [b"%d" % index for index in hosts]:
                path = expand(record["path"], self._home, self._environment)
                try:
                    self._place(path, record)
                except (OSError, ValueError) as error:
                    code = _complain(path, error)
            while self._left:
                self._content()
        for path, mode in reversed(self._folders):
            os.chmod(path, mode)
        return code

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            more = os.read(0, min(CHUNK_BYTES, size - len(data)))
            if not more and (data or size != LENGTH.size):
                raise EOFError("standard input ended in the middle of a file")
            if not more:
                break
            data += more
        return data

    def _content(self):
        data = os.read(0, min(CHUNK_BYTES, self._left))
        if not data:
            raise EOFError("standard input ended in the middle of a file")
        self._left -= len(data)
        return data

    def _place(self, path, record):
        kind, mode = record["kind"], record["mode"] & 0o7777
        folder = os.path.dirname(path)
        if kind == DIR:
            if not os.path.isdir(path):
                os.makedirs(path)
                self._folders.append((path, mode))
            return
        os.makedirs(folder, exist_ok=True)
        if os.path.isdir(path) and not os.path.islink(path):
            raise ValueError("there is a directory of that name")
        part = os.path.join(folder, b".plush-%s.part" % os.urandom(6).hex().encode())
        os.symlink(part, self._mark)
        try:
            if kind == LINK:
                os.symlink(record["target"], part)
            else:
                self._write(part, mode, record["sha256"])
            os.rename(part, path)
        finally:
            remove_marked(self._mark)

    def _write(self, part, mode, sha256):
        import hashlib

        found = hashlib.sha256()
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while self._left:
                data = memoryview(self._content())
                found.update(data)
                while data:
                    data = data[os.write(fd, data) :]
            if found.digest() != sha256:
                raise ValueError("its SHA-256 is wrong: it was changed while it was sent")
            os.fchmod(fd, mode)
        finally:
            os.close(fd)


class Sender:
    """Writes records to standard output; the paths in them begin with the last part of what was asked for."""

    def __init__(self, home, environment):
        self._home, self._environment = home, environment

    def run(self, paths):
        """All of them; 1 when one of them failed."""
        code = 0
        for path in paths:
            path = os.path.normpath(expand(os.fsencode(path), self._home, self._environment))
            code |= self._walk(path, os.path.basename(path) or b"root")
        return code

    def _walk(self, path, name):
        code = 0
        try:
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                self._say(encode_record(name, DIR, stat.S_IMODE(status.st_mode)))
                for inner in sorted(os.listdir(path)):
                    code |= self._walk(os.path.join(path, inner), name + b"/" + inner)
            elif stat.S_ISLNK(status.st_mode):
                self._say(encode_record(name, LINK, 0o777, target=os.readlink(path)))
            elif stat.S_ISREG(status.st_mode):
                self._send(path, name)
            else:
                raise ValueError("neither a file nor a directory nor a link: left out")
        except (OSError, ValueError) as error:
            code = _complain(path, error)
        return code

    def _send(self, path, name):
        import hashlib

        with open(path, "rb", 0) as file:
            status, found = os.fstat(file.fileno()), hashlib.sha256()
            size = left = status.st_size
            while left:
                data = file.read(min(CHUNK_BYTES, left))
                if not data:
                    size -= left  # it has shrunk
                    break
                found.update(data)
                left -= len(data)
            self._say(encode_record(name, FILE, stat.S_IMODE(status.st_mode), size, found.digest()))
            file.seek(0)
            left = size
            while left:
                data = file.read(min(CHUNK_BYTES, left)) or bytes(min(CHUNK_BYTES, left))  # the digest tells
                self._say(data)
                left -= len(data)

    @staticmethod
    def _say(data):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
