"""Asks the keeper: JSON lines on a Unix socket, one answer to each request."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import TestbedError


class KeeperGone(TestbedError):
    """The keeper has ended, and with it the testbed."""

    code = "testbed_down"


class ControlClient:
    """One connection; calls from several threads take turns."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")
        self._lock = threading.Lock()

    @classmethod
    def connect(cls, path: Path) -> ControlClient:
        """To the control socket of a testbed. Raises TestbedError."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except OSError as error:
            sock.close()
            raise KeeperGone(f"no testbed answers on {path} ({error.strerror}): is it still up?") from error
        return cls(sock)

    def ask(self, request: str | Mapping[str, Any], timeout_s: float = 60.0) -> Any:
        """Send a request, or a spec as JSON; wait for the answer. Raises TestbedError: refused, gone or too late."""
        text = request if isinstance(request, str) else json.dumps(request)
        with self._lock:
            self._sock.settimeout(timeout_s)
            try:
                self._sock.sendall(text.encode() + b"\n")
                line = self._file.readline()
            except TimeoutError as error:
                raise TestbedError(f"the testbed did not answer {text[:100]} within {timeout_s:.0f} s") from error
            except OSError:
                line = self._last_words()
        if not line:
            raise KeeperGone(f"the testbed has ended; asked for: {text[:100]}")
        answer = json.loads(line)
        if "error" in answer:
            raise (KeeperGone if answer.get("gone") else TestbedError)(answer["error"])
        return answer["ok"]

    def _last_words(self) -> bytes:
        """What a keeper that ended said before; b"" when it said nothing."""
        try:
            return self._file.readline()
        except OSError:
            return b""

    def close(self) -> None:
        """Hang up; on the harness's own connection that ends the testbed."""
        self._file.close()
        self._sock.close()
