"""The same program on Redis Cluster: messages spread over masters, and one of them killed in the middle."""

from __future__ import annotations

from pathlib import Path

import anyio
from redis.asyncio import RedisCluster

from app.doctor import redis as doctor
from tests.redis_cluster import redis_cluster
from tests.sse import Event, assert_dense, text_of
from tests.system import System, system

PARTITIONS = 9


async def test_messages_live_on_a_cluster_and_survive_a_failover(short_tmp: Path):
    """PROTOCOL R4."""
    async with (
        redis_cluster(short_tmp / "cluster") as nodes,
        system(short_tmp, redis_url=nodes.url, partitions=PARTITIONS, wait_replicas=1, wait_ms=500) as s,
        s.client() as client,
    ):
        found = await doctor.examine(s.settings, running=True)
        assert {finding.subject for finding in found if finding.state != "ok"} == {"Workers"}, found
        assert "3 masters" in found[0].found

        first = [await s.initiate(client, "t20-p50") for _ in range(6)]
        for message_id in first:
            events = await s.observe(client, message_id)
            assert_dense(events)
            assert text_of(events) == s.up.text("t20-p50")
        async with RedisCluster(host="127.0.0.1", port=nodes.ports[0]) as redis:
            homes = {redis.get_node_from_key(key.decode()).port for key in await _logs(redis, s)}
            assert len(homes) >= 2  # the messages do not all live on one master
        cancelled = await s.initiate(client, "stall10")
        await s.written(client, cancelled, 3)
        assert (await client.post(f"/v1/messages/async/{cancelled}/cancel")).status_code == 200
        assert (await s.observe(client, cancelled))[-1].type == "message_cancelled"

        seen: dict[str, list[Event]] = {}

        async def follow(message_id: str) -> None:
            seen[message_id] = await s.observe(client, message_id)

        running = [await s.initiate(client, "t400-p100", deadline_seconds=60) for _ in range(6)]
        async with anyio.create_task_group() as tg:
            for message_id in running:
                tg.start_soon(follow, message_id)
            for message_id in running:
                await s.written(client, message_id, 30)
            nodes.processes[1].kill()
        for message_id, events in seen.items():
            assert_dense(events)
            assert text_of(events) == s.up.text("t400-p100"), message_id


async def _logs(redis: RedisCluster, s: System) -> list[bytes]:
    return [key async for key in redis.scan_iter(match=f"{s.settings.redis_prefix}:*l:*")]
