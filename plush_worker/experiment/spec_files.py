"""The files of an experiment: found in its folder, which they can't leave, and named by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from .directory_yaml import Path
from .spec_fields import MAX_FILES, FileEntry
from .spec_load import Problems

_CHUNK_BYTES = 1 << 20
_PERMISSIONS = 0o777


def digest_of(path: str) -> str:
    """The SHA-256 of a file's content. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FolderReader:
    """Reads what an experiment names in its folder. ``take`` gets each file's path and returns its SHA-256."""

    def __init__(self, base_dir: str, take: Callable[[str], str], problems: Problems) -> None:
        self._base = os.path.realpath(base_dir)
        self._take = take
        self._problems = problems
        self._count = 0

    def stdin(self, place: Path, name: str) -> str:
        """The SHA-256 of a standard input; "" when something is wrong with it."""
        path = self._find(place, name)
        if not path:
            return ""
        if not os.path.isfile(path):
            self._problems.add(place, f"{name!r} is not a file")
            return ""
        return self._digest(place, name, path)

    def files(self, place: Path, entry: FileEntry) -> list[dict[str, Any]]:
        """What ``src`` names, as entries of ``RunSpec.files`` without their hosts; folders before what is in them."""
        src = str(entry.src)
        path = self._find((*place, "src"), src)
        if not path:
            return []
        dest, name = entry.dest, os.path.basename(os.path.normpath(src))
        if name in ("", ".") and not dest.rstrip("/"):
            self._problems.add(place, "needs dest: the experiment's own folder has no name on the hosts")
            return []
        if not dest or (dest.endswith("/") and name != "."):
            dest += name
        found = list(self._walk((*place, "src"), src, path, dest.rstrip("/") or "/"))
        if entry.mode is not None and found:
            if found[0]["kind"] != "file":
                self._problems.add((*place, "mode"), "is for a file; those in a folder keep their permissions")
            found[0]["mode"] = int(entry.mode, 8)
        return found

    def _find(self, place: Path, name: str) -> str:
        """The path itself, every link followed; "" when it isn't in the folder."""
        path = os.path.realpath(os.path.join(self._base, name))
        if os.path.commonpath([path, self._base]) != self._base:
            self._problems.add(place, f"{name!r} leads out of the experiment's folder, to {path!r}")
        elif not os.path.lexists(path):
            self._problems.add(place, f"there is no {name!r} in {self._base}")
        else:
            return path
        return ""

    def _walk(self, place: Path, name: str, path: str, dest: str) -> Iterator[dict[str, Any]]:
        self._count += 1
        if self._count == MAX_FILES + 1:
            self._problems.add(place, f"more than {MAX_FILES} files")
        if self._count > MAX_FILES:
            return
        try:
            status = os.lstat(path)
            mode = stat.S_IMODE(status.st_mode) & _PERMISSIONS
            entry = {"dest": dest, "kind": "file", "mode": mode, "size": 0, "sha256": "", "target": "", "hosts": None}
            if stat.S_ISLNK(status.st_mode):
                yield {**entry, "kind": "link", "mode": 0o777, "target": os.readlink(path)}
            elif stat.S_ISDIR(status.st_mode):
                yield {**entry, "kind": "dir"}
                for inside in sorted(os.listdir(path)):
                    if problem := _name_problem(inside):
                        self._problems.add(place, f"{name}/{inside!r} {problem}")
                    else:
                        yield from self._walk(place, f"{name}/{inside}", f"{path}/{inside}", f"{dest}/{inside}")
            elif stat.S_ISREG(status.st_mode):
                digest = self._digest(place, name, path)
                yield {**entry, "size": os.stat(path).st_size, "sha256": digest}
            else:
                self._problems.add(place, f"{name!r} is neither a file, a folder nor a link")
        except OSError as error:
            self._problems.add(place, f"{name!r} can't be read: {error.strerror}")

    def _digest(self, place: Path, name: str, path: str) -> str:
        try:
            return self._take(path)
        except OSError as error:
            self._problems.add(place, f"{name!r} can't be read or kept: {error.strerror or error}")
            return ""


def _name_problem(name: str) -> str:
    if "{host}" in name or "{index}" in name:
        return "has {host} or {index} in its name, which would be replaced"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8 text"
    return ""
