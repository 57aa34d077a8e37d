"""Results remembered beside the state of the files they were made from, under the user's XDG cache folder.

One JSON file per (kind, key). It is valid while every watched file has the same modification time and size as when
the result was made; a watched file that didn't exist must still not exist. A cache that can't be read or written is
no error: the result is made again. What is remembered includes commands (ProxyCommand), so a file that others could
have written is not believed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final
from zlib import crc32

_FORMAT: Final = 3  # of what is remembered; another number is not read
_MAX_BYTES = 64 << 20

FileState = tuple[str, int, int]  # path, mtime_ns, size; (path, 0, -1) when there is no such file


def look_at(paths: Iterable[str]) -> list[FileState]:
    """The state of files or folders now; take it before reading them, so that a change meanwhile is noticed later."""
    states = []
    for path in dict.fromkeys(paths):
        try:
            status = os.stat(path)
            states.append((path, status.st_mtime_ns, status.st_size))
        except OSError:
            states.append((path, 0, -1))
    return states


class FileCache:
    """The remembered results of one kind for one key."""

    def __init__(self, kind: str, key: Iterable[str], folder: str | None = None) -> None:
        self._key = list(key)
        self._folder = folder or cache_folder()
        checksum = crc32("\0".join(self._key).encode("utf-8", "surrogateescape"))
        self._path = f"{self._folder}/{kind}-{checksum:08x}.json"
        self.watched: list[FileState] = []  # under which ``load`` found what it returned

    def load(self) -> dict[str, Any] | None:
        """What was saved, if it still holds; None otherwise."""
        try:
            with open(self._path, "rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_uid != os.getuid() or status.st_mode & 0o022 or status.st_size > _MAX_BYTES:
                    return None
                saved = json.loads(stream.read())
            if saved["format"] != _FORMAT or saved["key"] != self._key:
                return None
            watched = [tuple(state) for state in saved["watched"]]
            self.watched = look_at(state[0] for state in watched)
            if self.watched != watched:
                return None
            data = saved["data"]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        return data if isinstance(data, dict) else None

    def save(self, watched: Iterable[FileState], data: Mapping[str, Any]) -> None:
        """Remembers ``data`` for as long as the watched files stay as they are; silently doesn't where that fails."""
        temporary = f"{self._path}.{os.getpid()}"
        saved = {"format": _FORMAT, "key": self._key, "watched": list(watched), "data": data}
        try:
            text = json.dumps(saved, separators=(",", ":"))
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except (OSError, ValueError):
            return
        try:
            with open(descriptor, "w", encoding="ascii") as stream:
                stream.write(text)
            os.replace(temporary, self._path)
        except OSError:
            try:
                os.unlink(temporary)
            except OSError:
                pass  # the cache folder itself went away


def cache_folder() -> str:
    """``plush`` under XDG_CACHE_HOME, else under ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    if not root.startswith("/"):  # the XDG specification: relative paths are to be ignored
        root = os.path.expanduser("~/.cache")
    return root + "/plush"
