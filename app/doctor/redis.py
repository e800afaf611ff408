"""Redis: its version, whether it keeps what it was given, its clock, and who works on it.

Everything is read from ``INFO`` where that tells it: managed services often refuse ``CONFIG``. Of a cluster every
master is asked.
"""

from __future__ import annotations

from typing import Any, cast

import redis.exceptions
from redis.asyncio import RedisCluster

from app.chat.liveness import workers_alive
from app.doctor.finding import Finding, clock, now, release
from app.engines import redis as engine
from app.errors import RepriseError
from app.redis_door import Redis, redis_door
from app.redis_keys import Keys
from app.resources import OLDEST_REDIS, redis_client
from app.settings import Settings, place_of

ANSWER_S = 5.0
NEARLY_FULL = 0.8

Info = dict[str, Any]


async def server(settings: Settings) -> Finding:
    """The server there is to start, or that none is needed."""
    if settings.redis_url:
        return Finding("Redis server", "ok", "external, as REPRISE_REDIS_URL says")
    found = await engine.installed()
    if not found:
        return Finding(
            "Redis server", "bad", "none found", "install redis-server 6.2 or newer, or use Python 3.11 or 3.12"
        )
    program, written = found[0]
    return Finding("Redis server", "ok", f"{written.engine} {written.version} ({program})")


async def examine(settings: Settings, running: bool) -> list[Finding]:
    """What the Redis of the settings says. ``running``: it was there before, so processes may be working on it."""
    try:
        client = redis_client(settings.redis_url, timeout_s=ANSWER_S, connections=2, retries=0)
    except RepriseError as error:
        return [Finding("Redis", "bad", error.message, "correct REPRISE_REDIS_URL")]
    try:
        with redis_door(place_of(settings.redis_url, 6379)):
            return await _look(client, settings, running)
    except RepriseError as error:
        return [Finding("Redis", "bad", error.message, "check its address, and that it runs")]
    except redis.exceptions.ResponseError as error:
        return [Finding("Redis", "bad", f"refuses to tell: {error}", "allow its user INFO and TIME")]
    finally:
        await client.aclose()


async def _look(client: Redis, settings: Settings, running: bool) -> list[Finding]:
    commands = cast(Any, client)
    nodes = await _masters(client)
    infos = [await commands.info(**node) for node in nodes]
    findings = [
        _version(infos),
        _persistence(infos, await _fsync(commands, nodes)),
        _memory(infos),
        *_replicas(infos, settings),
        await _clock(commands, nodes),
        await _partitions(commands, settings),
    ]
    if running:
        findings.append(await _workers(client, settings))
    return findings


async def _masters(client: Redis) -> list[dict[str, Any]]:
    """What to add to a command so that it is asked of each master."""
    if not isinstance(client, RedisCluster):
        return [{}]
    await client.initialize()
    return [{"target_nodes": node} for node in client.get_primaries()]


async def _fsync(commands: Any, nodes: list[dict[str, Any]]) -> str:
    """How often the append-only files reach the disk; empty where that is not told."""
    try:
        told = {str((await commands.config_get("appendfsync", **node)).get("appendfsync", "")) for node in nodes}
    except redis.exceptions.RedisError:
        return ""
    return ", ".join(sorted(told))


async def _clock(commands: Any, nodes: list[dict[str, Any]]) -> Finding:
    found = []
    for node in nodes:
        asked = now()
        seconds, microseconds = await commands.time(**node)
        found.append(clock("Redis clock", seconds + microseconds / 1e6, asked, now()))
    return next((finding for finding in found if finding.state != "ok"), found[0])


def _version(infos: list[Info]) -> Finding:
    versions = sorted({str(info.get("valkey_version") or info.get("redis_version")) for info in infos})
    found = f"answers, version {', '.join(versions)}{f', {len(infos)} masters' if len(infos) > 1 else ''}"
    if any(release(str(info.get("redis_version", "0"))) < OLDEST_REDIS for info in infos):
        return Finding("Redis", "bad", found, "use Redis 6.2 or newer, or Valkey")
    if any(info.get("role") not in (None, "master") for info in infos):
        return Finding("Redis", "bad", f"{found}: a replica", "give the address of the master, or of the sentinels")
    return Finding("Redis", "ok", found)


def _persistence(infos: list[Info], fsync: str) -> Finding:
    subject = "Redis persistence"
    if any(info.get("aof_last_write_status", "ok") != "ok" for info in infos):
        return Finding(subject, "bad", "the append-only file cannot be written", "look at its disk and its log")
    if not all(info.get("aof_enabled") for info in infos):
        advice = "set `appendonly yes`: a restart loses what was begun since the last snapshot"
        return Finding(subject, "warn", "no append-only file", advice)
    if "no" in fsync.split(", "):
        return Finding(subject, "warn", f"append-only file, appendfsync {fsync}", "set `appendfsync everysec`")
    return Finding(subject, "ok", f"append-only file{fsync and f', appendfsync {fsync}'}")


def _memory(infos: list[Info]) -> Finding:
    subject = "Redis memory"
    policies = {str(info.get("maxmemory_policy", "noeviction")) for info in infos if info.get("maxmemory")}
    used = sum(info.get("used_memory", 0) for info in infos)
    limits = [info["maxmemory"] for info in infos if info.get("maxmemory")]
    found = f"{used / 1e6:,.0f} MB used, {f'of {sum(limits) / 1e6:,.0f} MB' if limits else 'no limit'}"
    if evicting := policies - {"noeviction"}:
        advice = "set `maxmemory-policy noeviction`: else messages vanish unfinished when memory runs out"
        return Finding(subject, "bad", f"{found}, {', '.join(sorted(evicting))}", advice)
    if any(info.get("used_memory", 0) > NEARLY_FULL * info["maxmemory"] for info in infos if info.get("maxmemory")):
        return Finding(subject, "warn", found, "raise `maxmemory`: when it is full, new messages are refused")
    return Finding(subject, "ok", found)


def _replicas(infos: list[Info], settings: Settings) -> list[Finding]:
    if not settings.wait_replicas:
        return []
    fewest = min(int(info.get("connected_slaves", 0)) for info in infos)
    found = f"{fewest} connected, {settings.wait_replicas} waited for"
    if fewest < settings.wait_replicas:
        advice = "lower REPRISE_WAIT_REPLICAS or add replicas: every change of state waits for wait_ms in vain"
        return [Finding("Redis replicas", "bad", found, advice)]
    return [Finding("Redis replicas", "ok", found)]


async def _partitions(client: Any, settings: Settings) -> Finding:
    recorded = await client.hget(Keys(settings.redis_prefix, 1).meta(), "partitions")
    place = f"prefix {settings.redis_prefix}"
    if recorded is None:
        return Finding("Partitions", "ok", f"{place} is new, {settings.partitions} to be made")
    if int(recorded) != settings.partitions:
        said = f"{place} was first used with {int(recorded)}, the settings say {settings.partitions}"
        return Finding("Partitions", "bad", said, f"set REPRISE_PARTITIONS={int(recorded)}: it cannot change")
    return Finding("Partitions", "ok", f"{settings.partitions}, {place}")


async def _workers(client: Redis, settings: Settings) -> Finding:
    alive = await workers_alive(client, Keys(settings.redis_prefix, settings.partitions))
    found = ", ".join(f"{count} {kind}" for kind, count in alive.items())
    if missing := [kind for kind in ("generate", "background") if not alive.get(kind)]:
        advice = " and ".join(f"`reprise work {kind}`" for kind in missing)
        return Finding("Workers", "warn", found, f"start {advice}, or `reprise run`")
    return Finding("Workers", "ok", found)
