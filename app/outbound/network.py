"""Connections to addresses that were checked, and to no name."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable

import anyio
import anyio.to_thread
import httpcore

from app.errors import OutboundFailed
from app.outbound.addresses import is_public

CONNECT_S = 10.0
RESOLVERS = 8
"""Names resolved at once: each holds a thread, for as long as a name server keeps it waiting."""

Resolver = Callable[[str, int], Awaitable[list[str]]]


class Names:
    """Names to addresses, on threads of their own: a slow name server must not keep other work from its threads."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(RESOLVERS)

    async def resolve(self, host: str, port: int) -> list[str]:
        rows = await anyio.to_thread.run_sync(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
            limiter=self._limiter,
        )
        return list(dict.fromkeys(str(row[4][0]) for row in rows))


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to no name."""

    def __init__(self, allow_private: bool, resolve: Resolver, network: httpcore.AsyncNetworkBackend) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        deadline = anyio.current_time() + (CONNECT_S if timeout is None else timeout)
        addresses = await self._addresses(host, port, deadline)
        while True:
            address = addresses.pop(0)
            share = max(0.0, deadline - anyio.current_time()) / (len(addresses) + 1)
            try:
                return await self._network.connect_tcp(address, port, timeout=share)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not addresses:
                    raise

    async def _addresses(self, host: str, port: int, deadline: float) -> list[str]:
        try:
            with anyio.fail_after(max(0.0, deadline - anyio.current_time())):
                addresses = await self._resolve(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("its name was not resolved in time") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("its name cannot be resolved") from error
        if not addresses:
            raise httpcore.ConnectError("its name has no address")
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise OutboundFailed(
                "ADDRESS_REFUSED", "The address leads into a private network, to this machine or to nowhere."
            )
        return addresses
