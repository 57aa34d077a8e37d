"""The socket that the API listens on."""

from __future__ import annotations

import asyncio
import socket

from plush_api.api_part import _bind


def test_connections_are_accepted_without_nagles_delay() -> None:
    """An answer is two writes; with the delay the second waits 40 ms for the client's acknowledgement of the first."""

    async def main() -> int:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found = writer.get_extra_info("socket")
            done.set_result(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = _bind("127.0.0.1", 0, fixed=True)
        async with await asyncio.start_server(accepted, sock=listener), asyncio.timeout(5):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            found = await done
            writer.close()
            await writer.wait_closed()
            return found

    assert asyncio.run(main())
