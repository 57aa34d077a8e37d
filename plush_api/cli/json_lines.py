"""Results as JSON, one object a line (``--json``): a host's when it has ended, the summary last.

Owns the form of a host's object: ``host``, ``state``, ``code``, ``signal``, ``error``, and for each of ``stdout`` and
``stderr`` one of ``stdout`` (text), ``stdout_b64`` (not UTF-8), or ``stdout_file`` and ``stdout_bytes`` (over 1 MiB).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plush_worker.node import hostset
from plush_worker.node.messages import STDERR, STDOUT

from .console import STDOUT as TO_STDOUT
from .console import Console
from .outdir import OutputFolder, safe_file_name
from .pieces import Track, Tracks
from .view import Outcome

INLINE_BYTES = 1 << 20
_NAMES = {STDOUT: "stdout", STDERR: "stderr"}


class JsonRenderer:
    """Keeps each host's output until it ends.

    ``folder()`` names the folder for outputs beyond 1 MiB, which is made when needed; with ``stored`` they are there.
    ``process``: the name of the process that printed this, in a run with several; an object has it as ``process``.
    """

    def __init__(
        self,
        console: Console,
        name_of: Callable[[int], str],
        folder: Callable[[], Path],
        stored: OutputFolder | None = None,
        process: str = "",
    ) -> None:
        self._console = console
        self._name_of = name_of
        self._folder = folder
        self._stored = stored
        self._process = {"process": process} if process else {}
        self._kept = {STDOUT: Tracks(), STDERR: Tracks()}
        self._lost: dict[tuple[int, int], int] = {}  # (host number, stream) -> lost bytes

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """Keep it."""
        self._kept[stream].append(hosts, data)

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """Told in the host's ``error``."""
        for number in hostset.members(hosts):
            self._lost[number, stream] = self._lost.get((number, stream), 0) + lost_bytes

    def ended(self, outcome: Outcome) -> None:
        """One line for each host; what it printed is forgotten."""
        if outcome.name:
            self._write(outcome.name, outcome, {"stdout": "", "stderr": ""}, outcome.error)
        for number in hostset.members(outcome.hosts):
            host = 1 << number
            printed: dict[str, Any] = {}
            for stream, kept in self._kept.items():
                printed |= self._content(kept, kept.cover(host)[0], number, stream)
                kept.drop(host)
            self._write(self._name_of(number), outcome, printed, self._error(number, outcome))

    def summary(self, counts: dict[str, Any]) -> None:
        """The last line."""
        self._console.write(TO_STDOUT, json.dumps({"summary": counts}).encode() + b"\n")

    def finish(self) -> None:
        """Give the temporary files back."""
        for kept in self._kept.values():
            kept.close()

    def _write(self, name: str, outcome: Outcome, printed: dict[str, Any], error: str) -> None:
        line = {
            "host": name,
            **self._process,
            "state": str(outcome.state),
            "code": outcome.code,
            "signal": outcome.signal,
        }
        self._console.write(TO_STDOUT, json.dumps(line | {"error": error} | printed).encode() + b"\n")

    def _error(self, number: int, outcome: Outcome) -> str:
        lost = [f"{self._lost[number, s]} bytes of {_NAMES[s]} were lost" for s in _NAMES if (number, s) in self._lost]
        return "; ".join(([outcome.error] if outcome.error else []) + lost)

    def _content(self, kept: Tracks, track: Track, number: int, stream: int) -> dict[str, Any]:
        key = _NAMES[stream]
        if track.size_bytes > INLINE_BYTES:
            path = self._stored.path(number, stream) if self._stored else self._write_file(kept, track, number, key)
            return {f"{key}_file": str(path.absolute()), f"{key}_bytes": track.size_bytes}
        data = b"".join(kept.chunks(track))
        try:
            return {key: data.decode()}
        except UnicodeDecodeError:
            import binascii

            return {f"{key}_b64": binascii.b2a_base64(data, newline=False).decode("ascii")}

    def _write_file(self, kept: Tracks, track: Track, number: int, key: str) -> Path:
        folder = self._folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{safe_file_name(self._name_of(number))}.{key}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            for chunk in kept.chunks(track):
                file.write(chunk)
        return path
