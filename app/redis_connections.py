"""redis-py's client for one server in fewer steps where nothing is in the way; else, and what fails, is as inherited.

Choices:

1. redis-py bounds every send by `asyncio.wait_for`. On Python 3.11 that makes a task and two turns of the loop for each
   command, a tenth and more of what a command costs, for a write that cannot wait: with nothing else in the transport's
   buffer, a command well below its high-water mark is taken at once. Only such a command is sent without the timer.
   Waiting for the reply is bounded as ever.
2. A connection that is idle and in order is handed over without the pool's condition, timer and events, and commands
   on it go past the bookkeeping for retries and metrics: half of what they cost. Those that fail there are tried as
   redis-py tries them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, RedisCluster
from redis.asyncio import Redis as StandaloneRedis
from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

AT_ONCE_BYTES = 16_384
"""Largest command sent without a timer; asyncio's high-water mark is 64 KB."""


class _Prompt(AbstractConnection):
    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if not self._taken_at_once(command):
            await super().send_packed_command(command, check_health)
            return
        # Nothing suspends until the limit is back: a reader on this connection, which uses it too, never sees it gone.
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            await super().send_packed_command(command, check_health)
        finally:
            self.socket_timeout = limit

    def _taken_at_once(self, command: bytes | str | Iterable[bytes]) -> bool:
        writer = self._writer
        return (
            writer is not None
            and isinstance(command, list)
            and not self.health_check_interval
            and not writer.transport.is_closing()
            and writer.transport.get_write_buffer_size() == 0
            and sum(map(len, command)) <= AT_ONCE_BYTES
        )


class PromptConnection(_Prompt, Connection):
    """Over TCP."""


class PromptSocketConnection(_Prompt, UnixDomainSocketConnection):
    """Over a Unix socket."""


PROMPT = {"redis": PromptConnection, "unix": PromptSocketConnection}
"""By the scheme of the address."""


class PromptPool(BlockingConnectionPool):
    """A pool whose connections know no credentials that are renewed: nobody needs to hear of one that comes back."""

    _asking = 0

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> AbstractConnection:
        if not self._asking and await self._ready():
            connection = self._available_connections.pop()
            self._in_use_connections.add(connection)
            return connection
        self._asking += 1
        try:
            return cast(AbstractConnection, await cast(Any, super()).get_connection())
        finally:
            self._asking -= 1

    async def _ready(self) -> bool:
        """Whether the next connection is connected, and silent. Never suspends."""
        if not self._available_connections:
            return False
        connection = self._available_connections[-1]
        try:
            return connection.is_connected and not await connection.can_read()
        except RedisConnectionError:
            return False

    async def release(self, connection: AbstractConnection) -> None:
        if self._asking or cast(Any, connection).should_reconnect():
            await super().release(connection)
            return
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)


class PromptRedis(StandaloneRedis):
    """A client on a `PromptPool`."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        pool: Any = self.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_command(*args)
            return await self.parse_response(connection, args[0], **options)
        except RedisConnectionError:
            if connection.retry.get_retries() == 0:
                raise
        finally:
            await pool.release(connection)
        return await cast(Any, super()).execute_command(*args, **options)

    async def execute_packed(self, command: bytes) -> Any:
        """The reply to a command written by `packed`, as Redis sent it. Nothing is tried again."""
        pool: Any = self.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command([command])
            return await connection.read_response()
        finally:
            await pool.release(connection)

    async def execute_many(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """The replies of commands in one round trip. An error is one of them, not raised."""
        pool: Any = self.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await _reply(connection) for _ in commands]
        except RedisConnectionError:
            if connection.retry.get_retries() == 0:
                raise
        finally:
            await pool.release(connection)
        return await execute_pipeline(self, commands)


def packed(words: Iterable[str]) -> bytes:
    """Words of a command as they go over the wire; without the ``*count`` in front."""
    return "".join([f"${len(word)}\r\n{word}\r\n" for word in words]).encode("ascii")


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


async def execute_pipeline(redis: StandaloneRedis | RedisCluster, commands: list[tuple[Any, ...]]) -> list[Any]:
    """As `PromptRedis.execute_many`, with redis-py's own pipeline."""
    async with redis.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        return list(await pipe.execute(raise_on_error=False))
