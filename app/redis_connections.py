"""redis-py's connections, sending a small command without a timer.

redis-py bounds every send by `asyncio.wait_for`. On Python 3.11 that makes a task and two turns of the loop for each
command, a tenth and more of what a command costs, for a write that cannot wait: with nothing else in the transport's
buffer, a command well below its high-water mark is taken at once. Only such a command is sent without the timer.
Waiting for the reply is bounded as ever.
"""

from __future__ import annotations

from collections.abc import Iterable

from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection

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
