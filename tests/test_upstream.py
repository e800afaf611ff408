"""The scripted upstream itself: what the other tests and the benchmarks rest on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.upstream import Upstream, upstream
from tests.upstream_plans import text


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


async def _read(up: Upstream, model: str, **body: object) -> str:
    async with openai.AsyncOpenAI(api_key="k", base_url=up.base_url, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi"}], stream=True, extra_body=body
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])


async def test_the_text_is_what_it_says(up: Upstream) -> None:
    assert await _read(up, "t200") == up.text("t200")
    assert len(up.text("t200").encode()) > len(up.text("t200"))
    assert up.text("t3-same") == " same same same"
    assert await _read(up, "t200", max_tokens=10) == text("t200", 10)


async def test_the_pace(up: Upstream) -> None:
    began = time.monotonic()
    await _read(up, "t11-p100")
    assert time.monotonic() - began >= 0.1


async def test_stamps_are_times_of_writing(up: Upstream) -> None:
    before = time.monotonic_ns()
    stamps = [int(word) for word in (await _read(up, "t20-stamp-p500")).split()]
    assert len(stamps) == 20
    assert before < stamps[0]
    assert stamps == sorted(stamps)
    assert stamps[-1] < time.monotonic_ns()


async def test_an_answer_that_is_not_streamed(up: Upstream) -> None:
    async with openai.AsyncOpenAI(api_key="k", base_url=up.base_url) as client:
        found = await client.chat.completions.create(model="t5", messages=[{"role": "user", "content": "hi"}])
    assert found.choices[0].message.content == up.text("t5")


async def test_a_name_that_means_nothing(up: Upstream) -> None:
    with pytest.raises(openai.NotFoundError):
        await _read(up, "gpt-4o")


async def test_failures_are_counted_by_model_and_messages(up: Upstream) -> None:
    async with httpx.AsyncClient(base_url=up.base_url) as http:
        for words, statuses in (("a", [429, 429, 200]), ("b", [429, 429, 200])):
            body = {"model": "t1-fail429x2-after1", "messages": [{"role": "user", "content": words}]}
            answers = [await http.post("/chat/completions", json=body) for _ in statuses]
            assert [a.status_code for a in answers] == statuses
            assert answers[0].headers["retry-after"] == "1"


async def test_it_runs_alone_and_tells_what_happened() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.upstream", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:
        assert process.stdout is not None
        base = process.stdout.readline().strip()
        root = base.removesuffix("/v1")
        try:
            async with httpx.AsyncClient() as http:
                body = {"model": "t1000-p100", "messages": [], "stream": True}
                async with http.stream("POST", f"{base}/chat/completions", json=body) as answer:
                    async for _ in answer.aiter_raw():
                        break
                closed = time.monotonic_ns()
                limit = time.monotonic() + 5
                while not (log := (await http.get(f"{root}/_log")).json())["closes"]:
                    assert time.monotonic() < limit
                assert log["requests"][0]["body"] == body
                assert log["closes"][0]["model"] == "t1000-p100"
                assert abs(log["closes"][0]["at_ns"] - closed) < 5_000_000_000
                assert log["closes"][0]["sent"] < 1000
                await http.post(f"{root}/_reset")
                assert (await http.get(f"{root}/_log?bodies=0")).json()["requests"] == []
        finally:
            process.terminate()
        assert process.wait(10) == 0
