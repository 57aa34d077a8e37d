"""The inner half of a wide-area scenario: ``python -m ops.bench.driver``, started on the controller by ``drive.py``.

Standard input: one JSON object ``{"module", "area", "options"}``, then answers. Standard output: JSON objects, one a
line: ``{"ask": ...}`` for what only the outer half can see, at last ``{"done": samples}`` or ``{"failed": why}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from typing import IO, Any

from ops.bench.field import Field


class OuterFailed(Exception):
    """The outer half could not do what was asked."""


class Outer:
    """What the inner half asks the outer one."""

    def __init__(self, asks: IO[bytes], answers: IO[bytes]) -> None:
        self._asks, self._answers = asks, answers

    def marked(self, mark: str) -> list[str]:
        """The command lines of all processes of any host with the mark; the controller's count too."""
        return [command for _, command in self._ask({"ask": "marked", "mark": mark})["processes"]]

    def sweep(self, mark: str) -> None:
        """Kill them all. Raises OuterFailed."""
        left = self._ask({"ask": "sweep", "mark": mark})["left"]
        if left:
            raise OuterFailed(f"{left} processes with {mark} in their command lines could not be killed")

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        send(self._asks, message)
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer


def say(text: str) -> None:
    """One line for whoever watches."""
    print(f"  {text}", file=sys.stderr, flush=True)


def send(pipe: IO[bytes], message: Mapping[str, Any]) -> None:
    """One message, at once."""
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def main() -> int:
    """Do what standard input says."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would tools
    # Nothing that is started here may write to the pipe or read from it.
    asks, answers = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    try:
        job = json.loads(answers.readline())
        turns = import_module(job["module"]).turns
        samples = turns(Field.from_mapping(job["area"]), job["options"], Outer(asks, answers))
    except Exception as error:  # noqa: BLE001 - told to the outer half, whatever it was
        traceback.print_exc()
        send(asks, {"failed": f"{type(error).__name__}: {error}"})
        return 1
    send(asks, {"done": samples})
    return 0


if __name__ == "__main__":
    sys.exit(main())
