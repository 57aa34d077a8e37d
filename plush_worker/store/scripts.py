"""The Lua scripts beside this module: each change of the store is one of them, so that it happens whole or not at all.

Every script gets ``lua/prelude.lua`` in front. Standard library only, and little of it: the command line uses this too.
"""

from __future__ import annotations

import os

from ..errors import PlushError
from .errors import Fenced, MeshClosing, NoSuchMesh, NoSuchRun, StoreError, StoreFull, TooLarge

_FOLDER = os.path.join(os.path.dirname(__file__), "lua")
_texts: dict[str, str] = {}

_REFUSALS: dict[str, type[PlushError]] = {
    "PLUSH-NO-RUN": NoSuchRun,
    "PLUSH-NO-MESH": NoSuchMesh,
    "PLUSH-CLOSING": MeshClosing,
    "PLUSH-FENCED": Fenced,
    "PLUSH-TOO-LARGE": TooLarge,
    "OOM": StoreFull,
    "MISCONF": StoreFull,
}
_ADVICE = {
    "OOM": "; give the Redis server more memory (maxmemory) or remove old runs with 'plush rm'",
    "MISCONF": "; free disk space where the Redis server keeps its data",
}


def text(name: str) -> str:
    """The Lua text of a script, prelude included. Raises OSError when the installation lacks it."""
    found = _texts.get(name)
    if found is None:
        found = _texts[name] = _read("prelude") + _read(name)
    return found


def names() -> list[str]:
    """All scripts."""
    return sorted(f.removesuffix(".lua") for f in os.listdir(_FOLDER) if f.endswith(".lua") and f != "prelude.lua")


def refusal(message: str, what: str) -> PlushError:
    """What the server's error ``message`` (which begins with its code) to request ``what`` means."""
    code, _, said = message.partition(" ")
    kind = _REFUSALS.get(code, StoreError)
    if code.startswith("PLUSH-"):
        return kind(f"{what}: {said}")
    return kind(f"the Redis server refused {what}: {message}{_ADVICE.get(code, '')}")


def _read(name: str) -> str:
    with open(f"{_FOLDER}/{name}.lua", encoding="utf-8") as file:
        return file.read()
