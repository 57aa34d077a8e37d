"""The files of one fetched host, from the stream of records that its node program sends (``node/files.py``).

What comes is a host's word, so nothing in it is trusted: paths stay in the host's folder, no link in it is followed,
content counts when its SHA-256 is right. A file is written beside its place and renamed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

from plush_worker.node import files, messages

MAX_HEAD_BYTES = 64 << 10
MAX_PATH_BYTES = 4096
MAX_PROBLEMS = 100  # kept of one host
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS = 0o777  # setuid and its like are not taken over from hosts


class Refused(Exception):
    """A record that is not to be followed; the text says why."""


class Unpacker:
    """Takes the stream in any pieces. ``problems`` are texts; ``files_count`` and ``size_bytes`` what is in place."""

    def __init__(self, folder: Path) -> None:
        self.problems: list[str] = []
        self.files_count = self.size_bytes = 0
        self._folder = folder
        self._head = bytearray()
        self._left = 0  # of the content of the current record
        self._part: _Part | None = None  # where that goes; None: nowhere
        self._made: list[tuple[list[bytes], int]] = []  # folders made here: their permissions are set at the end
        self._broken = False

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        rest = memoryview(data)
        while rest and not self._broken:
            if self._left:
                count = min(self._left, len(rest))
                self._content(rest[:count])
            else:
                count = min(self._head_bytes() - len(self._head), len(rest))
                self._head += rest[:count]
                self._take_head()
            rest = rest[count:]

    def lose(self, lost_bytes: int) -> None:
        """So many bytes of the stream were lost: nothing behind them can be read."""
        self._break(f"{lost_bytes} bytes were lost on the way")

    def finish(self) -> None:
        """The stream is over: every file is in its place or gone."""
        if not self._broken and (self._left or self._head):
            self._break("what came of it ends in the middle of a file")
        self._abandon()
        for path, mode in reversed(self._made):
            try:
                folder_fd = self._enter(path)
                try:
                    os.fchmod(folder_fd, mode)
                finally:
                    os.close(folder_fd)
            except OSError as error:
                self._complain(path, error)
        self._made = []

    # ---- records

    def _head_bytes(self) -> int:
        size = files.LENGTH.size
        return size if len(self._head) < size else size + int(files.LENGTH.unpack_from(self._head)[0])

    def _take_head(self) -> None:
        """Of the head of a record there is more than before."""
        if len(self._head) < files.LENGTH.size:
            return
        if not files.LENGTH.size < self._head_bytes() <= MAX_HEAD_BYTES:
            self._break("what it sent is no file")
        elif len(self._head) == self._head_bytes():
            self._begin()

    def _begin(self) -> None:
        try:
            record = _checked(messages.unpack(bytes(self._head[files.LENGTH.size :])))
        except (messages.MessageError, Refused) as error:
            self._break(f"what it sent is no file: {error}")
            return
        self._head.clear()
        self._left = record["size"]
        try:
            self._place(_split(record["path"]), record)
        except (OSError, Refused) as error:
            self._complain([record["path"]], error)

    def _place(self, path: list[bytes], record: dict[str, Any]) -> None:
        mode = record["mode"] & _PERMISSIONS
        if record["kind"] == files.DIR:
            os.close(self._enter(path, mode))
            return
        folder_fd = self._enter(path[:-1])
        try:
            if record["kind"] == files.LINK:
                _make_link(folder_fd, path[-1], record["target"])
                self.files_count += 1
                return
            self._part = _Part(folder_fd, path, mode, record)
        finally:
            os.close(folder_fd)
        if not self._left:
            self._complete()

    def _content(self, data: memoryview) -> None:
        self._left -= len(data)
        if self._part is not None:
            try:
                self._part.write(data)
            except OSError as error:
                self._complain(self._part.path, error)
                self._abandon()
        if not self._left:
            self._complete()

    def _complete(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        try:
            folder_fd = self._enter(part.path[:-1])
            try:
                part.put(folder_fd)
            finally:
                os.close(folder_fd)
        except (OSError, Refused) as error:
            self._complain(part.path, error)
        else:
            self.files_count += 1
            self.size_bytes += part.size_bytes

    def _abandon(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            try:
                folder_fd = self._enter(part.path[:-1])
                try:
                    part.remove(folder_fd)
                finally:
                    os.close(folder_fd)
            except OSError as error:
                self._complain(part.path, error)

    def _enter(self, path: list[bytes], mode: int | None = None) -> int:
        """A descriptor of a folder below the host's own, made where it isn't there; the last with ``mode`` at the end.

        Raises OSError, also where a link stands in the way.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        folder_fd = os.open(self._folder, _FOLDER_FLAGS)
        for depth, name in enumerate(path, 1):
            try:
                try:
                    os.mkdir(name, 0o700, dir_fd=folder_fd)
                    is_last = depth == len(path) and mode is not None
                    self._made.append((path[:depth], mode if is_last and mode is not None else 0o755))
                except FileExistsError:
                    pass
                inner_fd = os.open(name, _FOLDER_FLAGS, dir_fd=folder_fd)
            finally:
                os.close(folder_fd)
            folder_fd = inner_fd
        return folder_fd

    # ---- problems

    def _break(self, why: str) -> None:
        self._broken = True
        self._abandon()
        self._add(why)

    def _complain(self, path: list[bytes], error: Exception) -> None:
        text = (isinstance(error, OSError) and error.strerror) or str(error)
        self._add(f"{os.fsdecode(b'/'.join(path))}: {text}")

    def _add(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append("... and more")


class _Part:
    """A file being written beside its place. The folder's descriptor is the caller's."""

    def __init__(self, folder_fd: int, path: list[bytes], mode: int, record: dict[str, Any]) -> None:
        self.path = path
        self.size_bytes = record["size"]
        self._mode, self._wanted = mode, record["sha256"]
        self._found = hashlib.sha256()
        self._name = _part_name()
        self._fd = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)

    def write(self, data: memoryview) -> None:
        self._found.update(data)
        while len(data):
            data = data[os.write(self._fd, data) :]

    def put(self, folder_fd: int) -> None:
        """It is whole: check it and give it its name. Raises OSError, Refused; it is gone then."""
        try:
            if self._found.digest() != self._wanted:
                raise Refused("its SHA-256 is wrong: it was changed while it was sent")
            os.fchmod(self._fd, self._mode)
            os.rename(self._name, self.path[-1], src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except BaseException:
            self.remove(folder_fd)
            raise
        os.close(self._fd)

    def remove(self, folder_fd: int) -> None:
        """Forget it."""
        os.close(self._fd)
        os.unlink(self._name, dir_fd=folder_fd)


def _make_link(folder_fd: int, name: bytes, target: bytes) -> None:
    part = _part_name()
    os.symlink(target, part, dir_fd=folder_fd)
    try:
        os.rename(part, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except BaseException:
        os.unlink(part, dir_fd=folder_fd)
        raise


def _part_name() -> str:
    return f".plush-{secrets.token_hex(6)}.part"


def _checked(record: Any) -> dict[str, Any]:
    """Raises Refused for what is no record."""
    if not isinstance(record, dict):
        raise Refused("a record is no mapping")
    types = {"path": bytes, "kind": str, "mode": int, "size": int, "sha256": bytes, "target": bytes}
    for name, kind in types.items():
        if type(record.get(name)) is not kind:
            raise Refused(f"{name} is missing or of the wrong type")
    if record["kind"] not in (files.FILE, files.DIR, files.LINK) or record["size"] < 0:
        raise Refused(f"kind {record['kind'][:20]!r} of {record['size']} bytes")
    if record["kind"] != files.FILE and record["size"]:
        raise Refused(f"a {record['kind']} with content")
    return record


def _split(path: bytes) -> list[bytes]:
    """The names in a path. Raises Refused for one that would leave the folder."""
    names = path.split(b"/")
    if len(path) > MAX_PATH_BYTES or b"\0" in path or any(name in (b"", b".", b"..") for name in names):
        raise Refused("refused: the path leaves the host's folder, or is none")
    return names
