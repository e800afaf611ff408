"""What a process opens once and closes in reverse: Redis, the database, and for workers an HTTP client.

Choices:

1. Ordinary commands share a pool whose exhaustion waits. A broken connection is tried once more at once (every
   script may be repeated); a command that timed out is not: it would only add to what the server cannot do.
2. Blocking reads get clients of their own (`Resources.blocking_redis`), without a retry and with a read timeout above
   the longest BLOCK, so that a host that vanished is still noticed.
3. The number of partitions is recorded at first start; another number would look for every message in the wrong place
   and is refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

import httpx
from redis.asyncio import BlockingConnectionPool, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.maint_notifications import MaintNotificationsConfig

from app.accounts import Accounts
from app.database import Database, migrate, open_pool
from app.errors import StartFailed, Unavailable
from app.llm.transport import KEPT_CONNECTIONS, DirectTransport
from app.redis_connections import PROMPT, PromptPool, PromptRedis
from app.redis_door import Redis, redis_door
from app.redis_keys import Keys
from app.settings import Settings, place_of, proxy_named

CONNECTIONS = 100
POOL_WAIT_S = 5.0
COMMAND_S = 5.0
CONNECT_S = 2.0
BLOCK_MARGIN_S = 5.0
OLDEST_REDIS = (6, 2)
MODEL_CONNECT_S = 10.0

T = TypeVar("T")


class Resources:
    """What is open. ``database``, ``accounts`` and ``http`` exist only where `open_resources` was asked for them."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self.settings = settings
        self.keys = Keys(settings.redis_prefix, settings.partitions)
        self._stack = stack
        self._redis: Redis | None = None
        self._database: Database | None = None
        self._accounts: Accounts | None = None
        self._http: httpx.AsyncClient | None = None

    @property
    def redis(self) -> Redis:
        """The client for ordinary commands: answers in bytes, RESP3."""
        return cast(Redis, _opened(self._redis))

    @property
    def database(self) -> Database:
        return _opened(self._database)

    @property
    def accounts(self) -> Accounts:
        return _opened(self._accounts)

    @property
    def http(self) -> httpx.AsyncClient:
        """The client that workers reach models with. It sets no limit on reading: whoever calls does."""
        return _opened(self._http)

    def blocking_redis(self, *, block_s: float | None = 5.0, connections: int = 8) -> Redis:
        """A client for blocking reads of up to ``block_s`` seconds (None: no read timeout at all, for pub/sub).

        It has its own connections and no retry, and is closed with the resources.
        """
        timeout = None if block_s is None else block_s + BLOCK_MARGIN_S
        client = redis_client(self.settings.redis_url, timeout_s=timeout, connections=connections, retries=0)
        self._stack.push_async_callback(client.aclose)
        return client

    async def ping_redis(self) -> float:
        """Seconds a PING took. Raises Unavailable with the reason."""
        began = time.monotonic()
        with redis_door():
            await cast(Any, self.redis).ping()
        return time.monotonic() - began

    async def hint(self, channel: str, about: str = "") -> None:
        """Tells whoever listens that there is something to do. They look by themselves too: losing it is harmless."""
        with suppress(Unavailable), redis_door():
            await cast(Any, self.redis).publish(self.keys.channel(channel), about)

    async def ping_database(self) -> float:
        """Seconds a statement took. Raises Unavailable with the reason."""
        began = time.monotonic()
        await self.database.fetchval("SELECT 1", timeout=COMMAND_S)
        return time.monotonic() - began


@asynccontextmanager
async def open_resources(settings: Settings, *, database: bool = True, http: bool = False) -> AsyncIterator[Resources]:
    """Opens what a process needs, the database migrated, and closes it with the block.

    Raises StartFailed for what no waiting mends (a wrong address, an engine too old, other partitions), Unavailable
    when an engine does not answer.
    """
    async with AsyncExitStack() as stack:
        resources = Resources(settings, stack)
        resources._redis = redis_client(settings.redis_url, timeout_s=COMMAND_S, connections=CONNECTIONS, retries=1)
        stack.push_async_callback(resources._redis.aclose)
        await _check_redis(resources)
        if database:
            await migrate(settings)
            resources._database = await stack.enter_async_context(open_pool(settings))
            resources._accounts = await Accounts.open(resources._database)
        if http:
            resources._http = await stack.enter_async_context(http_client())
        yield resources


def http_client() -> httpx.AsyncClient:
    """A client for models, over `DirectTransport`; where a proxy is named, over httpx's own transport, which knows it.

    Connecting may take 10 s; reading has no limit.
    """
    timeout = httpx.Timeout(None, connect=MODEL_CONNECT_S)
    if proxy_named():
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS)
        return httpx.AsyncClient(timeout=timeout, limits=limits)
    return httpx.AsyncClient(timeout=timeout, transport=DirectTransport())


def redis_client(url: str, *, timeout_s: float | None, connections: int, retries: int) -> Redis:
    """A client for a standalone, Sentinel or Cluster address. Raises StartFailed for an address that is none.

    ``unix:///path``, ``redis://user:password@host:port/db`` (``rediss`` with TLS),
    ``redis+sentinel://user:password@host:port,host:port/service/db``, ``redis+cluster://host:port,host:port``
    (``rediss+…`` with TLS).
    """
    backoff = ExponentialWithJitterBackoff(base=0.02, cap=0.2) if retries else NoBackoff()
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_S,
        "protocol": 3,
        "retry": Retry(backoff, retries, supported_errors=(RedisConnectionError,)),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    scheme = url.partition("://")[0]
    try:
        if scheme in ("redis+cluster", "rediss+cluster"):
            return RedisCluster.from_url(_first_host(url), max_connections=connections, **options)
        options |= {"max_connections": connections, "timeout": POOL_WAIT_S}
        if scheme in ("redis+sentinel", "rediss+sentinel"):
            return _behind_sentinel(url, options)
        pool = PromptPool.from_url(url, **options)
        pool.connection_class = PROMPT.get(scheme, pool.connection_class)
        return PromptRedis.from_pool(pool)
    except (ValueError, RedisClusterException) as error:
        raise StartFailed(f"setting redis_url (REPRISE_REDIS_URL) is no Redis address: {error}") from None


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master that the sentinels name; an exhausted pool waits."""


def _behind_sentinel(url: str, options: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    hosts = [_host_port(host, 26_379) for host in parts.netloc.rpartition("@")[2].split(",")]
    service, _, number = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("a Sentinel address ends in the service's name: redis+sentinel://host:26379/service")
    timeouts = {"socket_timeout": CONNECT_S, "socket_connect_timeout": CONNECT_S}
    sentinel: Any = Sentinel(hosts, sentinel_kwargs=timeouts)  # type: ignore[no-untyped-call]
    credentials = {
        name: unquote(value) for name, value in (("username", parts.username), ("password", parts.password)) if value
    }
    client = sentinel.master_for(
        service,
        connection_pool_class=_SentinelPool,
        db=int(number or 0),
        ssl=parts.scheme.startswith("rediss"),
        **credentials,
        **options,
    )
    return cast(Redis, client)


def _host_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} names no host")
    return parts.hostname, parts.port or default


def _first_host(url: str) -> str:
    """A cluster address with one of its hosts, as redis-py takes it: that one tells of the others."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    credentials, at, hosts = place.rpartition("@")
    plain = f"{scheme.partition('+')[0]}://{credentials}{at}{hosts.split(',')[0]}{slash}{path}"
    parse_url(plain)
    return plain


async def _check_redis(resources: Resources) -> None:
    settings, redis = resources.settings, cast(Any, resources.redis)
    meta = resources.keys.meta()
    with redis_door(place_of(settings.redis_url, 6379)):
        try:
            info = await redis.info("server")
            await redis.hsetnx(meta, "partitions", settings.partitions)
            recorded = int(await redis.hget(meta, "partitions"))
        except RedisClusterException as error:
            raise Unavailable(f"Redis Cluster does not answer: {error}", details={"engine": "redis"}) from error
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise StartFailed(f"Redis {version} is too old: Reprise needs 6.2 or newer, or Valkey")
    if recorded != settings.partitions:
        raise StartFailed(
            f"this Redis was first used with {recorded} partitions, the setting partitions (REPRISE_PARTITIONS) says "
            f"{settings.partitions}: that number cannot change"
        )


def _opened(thing: T | None) -> T:
    if thing is None:
        raise RuntimeError("open_resources was not asked for this")
    return thing
