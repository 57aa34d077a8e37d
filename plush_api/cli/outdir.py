"""One file per host in a folder (``--outdir``), besides what is shown.

Standard output goes to ``<folder>/<host>``, standard error to ``<folder>/<host>.stderr`` if there is any. Files of an
earlier run are replaced.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from plush_worker.node import hostset
from plush_worker.node.messages import STDOUT

from .view import Outcome

OPEN_FILES = 128  # descriptors kept; others are opened again to append
MAX_NAME_BYTES = 180


class OutputFolder:
    """A renderer that writes files. Raises OSError naming the file that can't be written."""

    def __init__(self, folder: Path, name_of: Callable[[int], str]) -> None:
        self._folder = folder
        self._name_of = name_of
        self._files: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._begun: set[tuple[int, int]] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """Append to each host's file."""
        for number in hostset.members(hosts):
            descriptor = self._open(number, stream)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """Said by the renderer beside this one."""

    def ended(self, outcome: Outcome) -> None:
        """A host that printed nothing gets an empty file, so that a stale one can't be taken for its output."""
        for number in hostset.members(outcome.hosts):
            self._open(number, STDOUT)
            for key in [key for key in self._files if key[0] == number]:
                os.close(self._files.pop(key))

    def finish(self) -> None:
        """Close what is open."""
        while self._files:
            os.close(self._files.popitem()[1])

    def path(self, number: int, stream: int) -> Path:
        """The file of one stream of a host."""
        return self._folder / (safe_file_name(self._name_of(number)) + ("" if stream == STDOUT else ".stderr"))

    def _open(self, number: int, stream: int) -> int:
        key = number, stream
        descriptor = self._files.get(key)
        if descriptor is not None:
            self._files.move_to_end(key)
            return descriptor
        if len(self._files) >= OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        mode = os.O_APPEND if key in self._begun else os.O_TRUNC
        descriptor = os.open(self.path(number, stream), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | mode, 0o666)
        self._begun.add(key)
        self._files[key] = descriptor
        return descriptor


def safe_file_name(name: str) -> str:
    """A host's name as a file name: what isn't plain becomes ``%XX``, different names stay different."""
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.@:"
    raw = name.encode("utf-8", "surrogateescape")
    text = "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in raw)
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) > MAX_NAME_BYTES:
        from hashlib import blake2b

        text = f"{text[: MAX_NAME_BYTES - 33]}%{blake2b(raw, digest_size=16).hexdigest()}"
    return text or "%"
