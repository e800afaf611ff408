"""The door to Redis's scripts: loads the Lua files, runs them, translates what goes wrong.

A script is sent by its digest and in full when the server does not know it: a restarted Redis has forgotten them all,
so no start-up step could make the digest alone safe. Every script's only key is the prefix of its partition.

A script that begins with ``-- steps: name, …`` does several steps at once: the other scripts named are put in front of
it as functions of their ARGV, so that what a step does is written once.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import RedisCluster

from app.redis_connections import PromptRedis, execute_pipeline
from app.redis_door import Redis, redis_door

__all__ = ["Call", "Redis", "Script", "Scripts", "pairs", "redis_door"]

Call = tuple[str, str, tuple[Any, ...]]
"""A script that is to run: its name, the prefix of its partition, its arguments."""


_PRELUDES = {
    "queue": "queue_prelude.lua",
    "feed": "queue_prelude.lua",
    "group": "group_prelude.lua",
    "dead": "group_prelude.lua",
}
_STEPS = "-- steps: "
_FOLDER = files("app") / "lua"


class Script:
    """One Lua file with the shared preludes in front."""

    def __init__(self, name: str) -> None:
        own = _read(f"{name}.lua")
        first = own.partition("\n")[0]
        steps = first.removeprefix(_STEPS).split(", ") if first.startswith(_STEPS) else []
        families = [step.partition("_")[0] for step in [name, *steps]]
        preludes = dict.fromkeys(_PRELUDES[family] for family in families if family in _PRELUDES)
        parts = [_read(part) for part in ["prelude.lua", *preludes]]
        parts += [f"local function {step}(ARGV)\n{_read(f'{step}.lua')}end" for step in steps]
        self.name = name
        self.text = "\n".join([*parts, own])
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """Runs scripts against one Redis. ``wait`` is (replicas, ms) for changes that must outlive a failover."""

    def __init__(self, redis: Redis, wait: tuple[int, int] = (0, 0)) -> None:
        self.redis = redis
        self._wait = wait
        self._scripts: dict[str, Script] = {}

    def script(self, name: str) -> Script:
        found = self._scripts.get(name)
        if found is None:
            found = self._scripts[name] = Script(name)
        return found

    async def run(self, name: str, base: str, *args: str | bytes | int | float) -> Any:
        """Runs one script in the partition with prefix ``base``. Raises Unavailable."""
        script = self.script(name)
        with redis_door():
            try:
                return await self.redis.evalsha(script.sha, 1, base, *args)
            except redis_errors.NoScriptError:
                return await self.redis.eval(script.text, 1, base, *args)

    async def run_durably(self, name: str, base: str, *args: str | bytes | int | float) -> Any:
        """`run`, then a bounded WAIT for the replicas on the connection that wrote, where the settings ask for it."""
        replicas, ms = self._wait
        if replicas == 0:
            return await self.run(name, base, *args)
        script = self.script(name)
        # on a cluster the wait must reach the master that owns the partition, and on the same connection
        where = {"target_nodes": self.redis.get_node_from_key(base)} if isinstance(self.redis, RedisCluster) else {}
        with redis_door():
            async with self.redis.pipeline(transaction=False) as pipe:
                pipe.execute_command("EVAL", script.text, 1, base, *args)
                pipe.execute_command("WAIT", replicas, ms, **where)
                reply, _ = await pipe.execute()
                return reply

    async def run_many(self, calls: list[Call]) -> list[Any]:
        """Many scripts in one round trip. Each result stands alone: an error is returned, not raised."""
        known = [(self.script(name).sha, base, args) for name, base, args in calls]
        with redis_door():
            results = await self._pipeline(known, by_sha=True)
            unknown = [i for i, r in enumerate(results) if isinstance(r, redis_errors.NoScriptError)]
            if unknown:
                again = [(self.script(calls[i][0]).text, calls[i][1], calls[i][2]) for i in unknown]
                for i, result in zip(unknown, await self._pipeline(again, by_sha=False), strict=True):
                    results[i] = result
            return results

    async def run_all(self, calls: list[Call]) -> list[Any]:
        """Many scripts in one round trip, none of which may fail. Raises Unavailable."""
        results = await self.run_many(calls) if calls else []
        for result in results:
            if isinstance(result, Exception):
                with redis_door():
                    raise result
        return results

    async def _pipeline(self, calls: list[Call], *, by_sha: bool) -> list[Any]:
        # by name: the methods are barred on a cluster's pipeline, though each call has its own slot
        commands = [("EVALSHA" if by_sha else "EVAL", code, 1, base, *args) for code, base, args in calls]
        if isinstance(self.redis, PromptRedis):
            return await self.redis.execute_many(commands)
        return await execute_pipeline(self.redis, commands)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text()


def pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    """A flat HGETALL reply as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
