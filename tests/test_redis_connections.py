"""Commands of every size arrive whole and in order, and a Redis that takes nothing is still noticed."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.redis_connections import AT_ONCE_BYTES, PromptConnection, PromptRedis, PromptSocketConnection, packed
from app.resources import redis_client
from app.settings import Settings
from app.tail import _by_stream


@pytest.mark.parametrize("size", [0, 1, AT_ONCE_BYTES - 1, AT_ONCE_BYTES, AT_ONCE_BYTES * 40])
async def test_commands_of_every_size_arrive_whole(settings: Settings, size: int) -> None:
    client = redis_client(settings.redis_url, timeout_s=5, connections=2, retries=0)
    try:
        assert client.connection_pool.connection_class in (PromptConnection, PromptSocketConnection)
        for i in range(3):
            value = bytes([65 + i]) * size
            assert await client.echo(value) == value
        async with client.pipeline(transaction=False) as pipe:
            for i in range(50):
                pipe.echo(b"%d" % i * (size // 50 + 1))
            assert await pipe.execute() == [b"%d" % i * (size // 50 + 1) for i in range(50)]
    finally:
        await client.aclose()


@pytest.mark.parametrize("size", [10, 8_000_000])
async def test_a_redis_that_neither_reads_nor_answers_is_given_up(size: int) -> None:
    silent = asyncio.Event()

    async def handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"ECHO" not in (asked := await reader.read(4_096)):
            for command in asked.split(b"*")[1:]:
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n" if b"HELLO" in command else b"+OK\r\n")
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(handshake, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = redis_client(f"redis://127.0.0.1:{port}", timeout_s=0.2, connections=1, retries=0)
    try:
        with pytest.raises(RedisTimeoutError):
            await asyncio.wait_for(client.echo(b"x" * size), 10)
    finally:
        silent.set()
        await client.aclose()
        server.close()
        await server.wait_closed()


async def test_more_commands_than_connections_all_have_their_turn(settings: Settings) -> None:
    client = redis_client(settings.redis_url, timeout_s=5, connections=2, retries=0)
    try:
        answers: list[bytes] = []

        async def ask(value: bytes) -> None:
            answers.append(await client.echo(value))

        for _ in range(3):
            answers.clear()
            async with anyio.create_task_group() as group:
                for i in range(40):
                    group.start_soon(ask, b"%d" % i)
            assert sorted(answers, key=int) == [b"%d" % i for i in range(40)]
    finally:
        await client.aclose()


async def test_a_connection_that_was_lost_or_left_in_the_middle_is_not_used_again(settings: Settings) -> None:
    client = redis_client(settings.redis_url, timeout_s=5, connections=2, retries=1)
    other = redis_client(settings.redis_url, timeout_s=5, connections=1, retries=1)
    try:
        for _ in range(3):
            await other.client_kill_filter(_id=await client.client_id())
            assert await client.echo(b"again") == b"again"
        key = f"{settings.redis_prefix}:nothing"
        with anyio.move_on_after(0.05):
            await client.execute_command("BLPOP", key, 0)
        assert await client.echo(b"mine") == b"mine"
        with pytest.raises(ResponseError):
            await client.execute_command("NO-SUCH-COMMAND")
        assert await client.echo(b"still mine") == b"still mine"
        assert await other.lpush(key, "x") == 1
    finally:
        await client.aclose()
        await other.aclose()


async def test_several_at_once_answer_in_order_with_their_errors_also_over_a_lost_connection(
    settings: Settings,
) -> None:
    client = redis_client(settings.redis_url, timeout_s=5, connections=1, retries=1)
    other = redis_client(settings.redis_url, timeout_s=5, connections=1, retries=1)
    assert isinstance(client, PromptRedis)
    try:
        for lost in (False, True):
            if lost:
                await other.client_kill_filter(_id=await client.client_id())
            first, error, last = await client.execute_many(
                [("ECHO", "a"), ("NO-SUCH-COMMAND",), ("ECHO", b"b" * 99_999)]
            )
            assert (first, last) == (b"a", b"b" * 99_999)
            assert isinstance(error, ResponseError)
        assert await client.echo(b"in step") == b"in step"
    finally:
        await client.aclose()
        await other.aclose()


async def test_without_retries_a_lost_connection_is_told_at_once(settings: Settings) -> None:
    client = redis_client(settings.redis_url, timeout_s=5, connections=1, retries=0)
    other = redis_client(settings.redis_url, timeout_s=5, connections=1, retries=1)
    try:
        number = await client.client_id()
        async with anyio.create_task_group() as group:

            async def waits() -> None:
                with pytest.raises(RedisConnectionError):
                    await client.execute_command("BLPOP", f"{settings.redis_prefix}:nothing", 0)

            group.start_soon(waits)
            await anyio.sleep(0)
            while not await other.client_kill_filter(_id=number):
                await anyio.sleep(0.01)
        assert await client.echo(b"back") == b"back"
    finally:
        await client.aclose()
        await other.aclose()


@pytest.mark.parametrize(
    "reply",
    [
        {b"k": [[b"1-0", [b"a", b"1", b"b", b"2"]], [b"2-0", [b"a", b"3"]]]},  # Redis, RESP3
        [[b"k", [[b"1-0", [b"a", b"1", b"b", b"2"]], [b"2-0", [b"a", b"3"]]]]],  # Redis, RESP2
        {b"k": [[(b"1-0", {b"a": b"1", b"b": b"2"}), (b"2-0", {b"a": b"3"})]]},  # redis-py, RESP3
        [[b"k", [(b"1-0", {b"a": b"1", b"b": b"2"}), (b"2-0", {b"a": b"3"})]]],  # redis-py, RESP2
    ],
)
def test_entries_are_the_same_in_whatever_form_a_read_brings_them(reply: Any):
    assert _by_stream(reply) == [(b"k", [(b"1-0", {b"a": b"1", b"b": b"2"}), (b"2-0", {b"a": b"3"})])]
    assert _by_stream(None) == []
    assert _by_stream({b"k": []}) == [(b"k", [])]


def test_a_command_packed_by_us_is_the_one_redis_py_would_send():
    words = ["XREAD", "COUNT", "1", "STREAMS", "a:{p0}:b", "0-0"]
    [theirs] = Connection().pack_command(*words)
    assert b"*6\r\n" + packed(words) == theirs
