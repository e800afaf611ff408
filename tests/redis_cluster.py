"""A real Redis Cluster of three masters and three replicas on this machine, for the time of a test."""

from __future__ import annotations

import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.engines.redis import installed
from tests.rig import until

SLOTS = 16_384
MASTERS = 3
NODE_TIMEOUT_MS = 1_000


class ClusterNodes:
    """``ports[i]`` with i < 3 are masters, ``ports[i + 3]`` their replicas."""

    def __init__(self, ports: list[int], processes: list[Process]) -> None:
        self.ports = ports
        self.processes = processes

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.ports[0]}"


@asynccontextmanager
async def redis_cluster(place: Path) -> AsyncIterator[ClusterNodes]:
    """Nodes that form a cluster; all are gone afterwards."""
    program, _ = (await installed())[0]
    ports = _free_ports(2 * MASTERS)
    processes: list[Process] = []
    try:
        for port in ports:
            home = place / str(port)
            home.mkdir(parents=True)
            command = [
                *(str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", ""),
                *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--appendonly", "yes"),
                *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"),
                *("--repl-diskless-sync-delay", "0"),
            ]
            opened = await anyio.open_process(command, stdout=None, stderr=None)
            processes.append(opened._process)  # type: ignore[attr-defined]
        await _form(ports)
        yield ClusterNodes(ports, processes)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
        with anyio.CancelScope(shield=True):
            for process in processes:
                await process.wait()


async def _form(ports: list[int]) -> None:
    clients = [Redis(port=port) for port in ports]
    try:
        for client in clients:
            await until(lambda client=client: _answers(client))
        for i, client in enumerate(clients[:MASTERS]):
            first, last = i * SLOTS // MASTERS, (i + 1) * SLOTS // MASTERS
            await client.execute_command("CLUSTER ADDSLOTS", *range(first, last))
            await client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
        for port in ports[1:]:
            await clients[0].execute_command("CLUSTER MEET", "127.0.0.1", port)
        names = [(await client.execute_command("CLUSTER MYID")) for client in clients]
        for i, client in enumerate(clients[MASTERS:]):

            async def follows(client: Redis = client, name: bytes = names[i]) -> bool:
                with suppress(RedisError):
                    return bool(await client.execute_command("CLUSTER REPLICATE", name))
                return False

            await until(follows)
        for client in clients:
            await until(lambda client=client: _whole(client), 20)
    finally:
        for client in clients:
            await client.aclose()


async def _answers(client: Redis) -> bool:
    with suppress(RedisError, OSError):
        return bool(await client.ping())
    return False


async def _whole(client: Redis) -> bool:
    info = await client.execute_command("CLUSTER INFO")
    if "cluster_state:ok" not in str(info) and info.get("cluster_state") != "ok":
        return False
    replication = await client.info("replication")
    return bool(replication.get("connected_slaves") or replication.get("master_link_status") == "up")


def _free_ports(count: int) -> list[int]:
    """Ports that are free themselves and 10,000 above, where the nodes talk to each other."""
    found: list[int] = []
    for port in range(21_000, 30_000):
        try:
            for number in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")
