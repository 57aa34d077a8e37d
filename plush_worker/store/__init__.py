"""Redis as Plush uses it: workers, meshes, subtrees, runs, events, ops, the index of output; and segment files.

``Store`` (asyncio, for workers) comes from here on first use; ``light.LightStore`` (blocking, for the command line) and
``segments`` are imported from their own modules. Nothing is imported with the package itself: the command line's first
request must leave within 150 ms, and redis-py alone takes that long.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # the name that type checkers know, without the 2 ms of importing typing
    from .store import Store

__all__ = ["Store"]


def __getattr__(name: str) -> object:
    if name != "Store":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .store import Store

    return Store
