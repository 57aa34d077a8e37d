"""What ``plush deploy`` sends: the files that were named, as entries of a run, with ``cp -r``'s idea of where they go.

Pure but for looking at the files; reads none of them. Entry point: ``find_files``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from plush_worker.errors import UsageError

MAX_FILES = 50_000
MAX_PROBLEMS_SHOWN = 20


def find_files(sources: Sequence[str], dest: str, take: Callable[[str], tuple[str, int]]) -> list[dict[str, Any]]:
    """Entries of ``RunSpec.files``: a folder before what is in it. ``take`` gives a file's (SHA-256, size in bytes).

    Several sources, or a ``dest`` that ends in ``/``, go into ``dest`` under their own names; one source becomes
    ``dest``. Links are kept as links, but a source that is one is followed. Raises UsageError with all that is wrong.
    """
    problems: list[str] = []
    if not dest or ".." in dest.split("/") or "\0" in dest:
        raise UsageError(f"{dest!r} is no place on the hosts: it is empty or has '..' in it")
    entries: list[dict[str, Any]] = []
    into = len(sources) > 1 or dest.endswith("/")
    top = dest.rstrip("/") or "/"
    for source in sources:
        name = os.path.basename(os.path.normpath(source))
        is_content = not into or name in (".", "..", "")  # ``deploy . DEST/``: what is in it, as cp has it
        path = top if is_content else os.path.join(top, name)
        for entry in _walk(os.path.realpath(source) if os.path.exists(source) else source, path, take, problems):
            entries.append(entry)
            if len(entries) > MAX_FILES:
                raise UsageError(f"more than {MAX_FILES} files: pack them into an archive and deploy that")
    doubles = _doubles(entry["dest"] for entry in entries if entry["kind"] != "dir")
    problems += [f"{path} on the hosts would be made from more than one of the sources" for path in doubles]
    if problems:
        more = len(problems) - MAX_PROBLEMS_SHOWN
        raise UsageError("\n".join(problems[:MAX_PROBLEMS_SHOWN] + ([f"... and {more} more"] if more > 0 else [])))
    return entries


def _walk(
    path: str, dest: str, take: Callable[[str], tuple[str, int]], problems: list[str]
) -> Iterator[dict[str, Any]]:
    try:
        status = os.lstat(path)
        entry = {"dest": dest, "kind": "file", "mode": stat.S_IMODE(status.st_mode), "size": 0, "sha256": ""}
        entry |= {"target": "", "hosts": None}
        if stat.S_ISDIR(status.st_mode):
            yield {**entry, "kind": "dir"}
            for name in sorted(os.listdir(path)):
                if "{host}" in name or "{index}" in name:
                    problems.append(f"{path}/{name}: {{host}} and {{index}} in its name would be replaced on the hosts")
                else:
                    yield from _walk(f"{path}/{name}", os.path.join(dest, name), take, problems)
        elif stat.S_ISLNK(status.st_mode):
            yield {**entry, "kind": "link", "mode": 0o777, "target": os.readlink(path)}
        elif stat.S_ISREG(status.st_mode):
            digest, size_bytes = take(path)
            yield {**entry, "sha256": digest, "size": size_bytes}
        else:
            problems.append(f"{path}: neither a file nor a directory nor a link")
    except OSError as error:
        problems.append(f"{error.filename or path}: {error.strerror or error}")


def _doubles(paths: Iterator[str]) -> list[str]:
    seen: set[str] = set()
    return [path for path in paths if path in seen or seen.add(path)]  # type: ignore[func-returns-value]
