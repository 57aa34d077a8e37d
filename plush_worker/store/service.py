"""``ServiceStore``: the store as the API uses it, with tokens, submissions and pages of runs besides."""

from __future__ import annotations

from ..node import hostset
from .celery_message import close_message
from .idempotency import Submissions
from .run_pages import RunPages
from .store import Store
from .tokens import Tokens


class ServiceStore(Store, Tokens, Submissions, RunPages):
    """A Store that raises the same errors. For one event loop."""

    async def ping(self) -> None:
        """Returns when the server answers. Raises StoreUnavailable."""
        await self._connection.command("PING")

    async def close_mesh(self, mesh: str, kill: bool = False) -> int:
        """Asks the live owners of the mesh's subtrees to close them; how many owners. ``kill``: ops are ended first."""
        queues = {worker.incarnation: worker.queue for worker in await self.live_workers()}
        roots: dict[str, int] = {}
        subtrees, _ = await self.subtrees(mesh)
        for record in subtrees.values():
            if record.incarnation in queues:
                roots[record.incarnation] = roots.get(record.incarnation, 0) | 1 << record.root
        for incarnation, owned in roots.items():
            queue = queues[incarnation]
            message = close_message(mesh, incarnation, hostset.to_text(owned), kill, queue)
            # Repeated after a lost answer it is sent twice, and closing twice is closing.
            await self._connection.command("LPUSH", queue, message, what=f"closing mesh {mesh}")
        return len(roots)
