"""The asyncio connections to Redis: pools, repetition after a lost connection, redis-py's errors into ours.

Knows nothing of runs or meshes. Requests go over a bounded pool; blocking reads over a second one, so that they hold
nothing else up. A request whose connection breaks is repeated: every script is written so that repeating it is
harmless, with a token and the number of the attempt where that takes one (``ATTEMPT`` in its arguments).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self

import redis.asyncio as redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from . import limits, scripts
from .address import Address, parse_url
from .errors import StoreUnavailable

Argument = str | bytes | int

ATTEMPT: Final = b"plush attempt"  # stands for the number of the attempt, by identity


class Connection:
    """Requests to one Redis server. For one event loop; ``close`` it there."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client = _client(address, limits.MAX_CONNECTIONS)
        self._free = asyncio.Semaphore(limits.MAX_CONNECTIONS)
        self._blocking_client = _client(address, limits.MAX_BLOCKED_READS)
        self._free_to_block = asyncio.Semaphore(limits.MAX_BLOCKED_READS)
        self._hashes: dict[str, str] = {}

    @classmethod
    def to(cls, url: str) -> Self:
        """A connection to the server that ``url`` names; opened by its first request. Raises BadStoreURL."""
        return cls(parse_url(url))

    async def close(self) -> None:
        """Ends all connections."""
        await self._client.aclose()
        await self._blocking_client.aclose()

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[Argument] = (), what: str = "") -> Any:
        """The result of a script. ``what`` names the request in errors.

        Raises StoreUnavailable, StoreFull and what the script refuses with (Fenced, NoSuchRun, NoSuchMesh, ...).
        """

        async def attempt(number: int) -> Any:
            values = [number if a is ATTEMPT else a for a in arguments]
            async with self._free, asyncio.timeout(limits.ANSWER_TIMEOUT_S):
                return await self._evaluate(script, keys, values)

        return await self._repeat(attempt, what or script)

    async def command(self, *command: Argument, what: str = "") -> Any:
        """The reply to one command that changes nothing, or that can be repeated."""

        async def attempt(_number: int) -> Any:
            async with self._free, asyncio.timeout(limits.ANSWER_TIMEOUT_S):
                return await self._client.execute_command(*command)

        return await self._repeat(attempt, what or str(command[0]))

    async def pipeline(self, commands: Sequence[Sequence[Argument]], what: str) -> list[Any]:
        """The replies to commands sent together over one connection; the first refusal is raised."""

        async def attempt(_number: int) -> list[Any]:
            async with self._free, self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                async with asyncio.timeout(limits.ANSWER_TIMEOUT_S):
                    return list(await pipeline.execute())

        replies: list[Any] = await self._repeat(attempt, what)
        return replies

    async def read_stream(self, stream: str, after: str, block_ms: int, count: int) -> list[Any]:
        """Entries behind id ``after`` as (id, [field, value, ...]); waits for the first up to block_ms (0: not at all).

        When too many wait already, this one polls instead.
        """
        command = ("XREAD", "COUNT", count, "STREAMS", stream, after)
        if block_ms <= 0:
            return _entries(await self.command(*command))
        if not self._free_to_block.locked():
            return await self._blocked_read(command, min(block_ms, limits.MAX_BLOCK_MS))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + block_ms / 1000
        while True:
            found = _entries(await self.command(*command))
            left_s = deadline - loop.time()
            if found or left_s <= 0:
                return found
            await asyncio.sleep(min(left_s, limits.POLL_S))

    async def _blocked_read(self, command: Sequence[Argument], block_ms: int) -> list[Any]:
        async def attempt(_number: int) -> Any:
            async with self._free_to_block, asyncio.timeout(block_ms / 1000 + limits.ANSWER_TIMEOUT_S):
                return await self._blocking_client.execute_command("XREAD", "BLOCK", block_ms, *command[1:])

        return _entries(await self._repeat(attempt, "reading events"))

    async def _evaluate(self, script: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        text = scripts.text(script)
        digest = self._hashes.get(script)
        if digest is None:
            digest = self._hashes[script] = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        try:
            return await self._client.execute_command("EVALSHA", digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self._client.execute_command("EVAL", text, len(keys), *keys, *arguments)

    async def _repeat(self, attempt: Callable[[int], Awaitable[Any]], what: str) -> Any:
        pause_s = limits.RETRY_PAUSE_S
        for number in range(limits.RETRIES + 1):
            try:
                return await attempt(number)
            except AuthenticationError as error:
                raise StoreUnavailable(
                    f"{what}: the Redis server {self.address} refused the login: {error}; check the URL's password"
                ) from error
            except (RedisConnectionError, OSError) as error:
                if number == limits.RETRIES or isinstance(error, TimeoutError):
                    raise self._unavailable(what, error) from error
            except RedisTimeoutError as error:
                raise self._unavailable(what, error) from error
            except ResponseError as error:
                raise self._refused(what, error) from error
            except RedisError as error:
                raise self._unavailable(what, error) from error
            await asyncio.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    def _refused(self, what: str, error: ResponseError) -> Exception:
        code = _CODES.get(type(error).__name__, "")
        return scripts.refusal(f"{code} {error}".strip(), what)

    def _unavailable(self, what: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"{what}: no Redis server answers at {self.address}: {str(error) or type(error).__name__}; "
            "start one ('plush up' brings its own), or set PLUSH_REDIS_URL to the one that runs"
        )


# redis-py takes the code off the messages that it knows.
_CODES = {"OutOfMemoryError": "OOM", "ReadOnlyError": "READONLY", "NoPermissionError": "NOPERM"}


def _client(address: Address, connections: int) -> redis.Redis:
    # No socket_timeout: redis-py then sends through asyncio.wait_for, which before Python 3.12 swallows a cancellation
    # that comes as the sending ends, so that a cancelled task goes on for ever. The requests have their own timeouts.
    common: dict[str, Any] = {
        "db": address.db,
        "username": address.user or None,
        "password": address.password or None,
        "socket_timeout": None,
        "socket_connect_timeout": limits.CONNECT_TIMEOUT_S,
        "retry": redis.retry.Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,  # no CLIENT SETINFO: two requests for each new connection
        "max_connections": connections,
    }
    if address.path:
        pool = redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, path=address.path, **common)
    else:
        kind = redis.SSLConnection if address.tls else redis.Connection
        pool = redis.ConnectionPool(
            connection_class=kind, host=address.host, port=address.port, socket_keepalive=True, **common
        )
    return redis.Redis.from_pool(pool)


def _entries(reply: Any) -> list[Any]:
    """The entries of the only stream in a reply to XREAD."""
    return list(reply[0][1]) if reply else []
