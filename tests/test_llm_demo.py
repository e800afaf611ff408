"""The built-in model says what it is, keeps to the limits, and always says the same."""

from __future__ import annotations

import time

from app.llm.demo import DemoModel
from app.llm.types import ImageBlock, Request, Stop, TextBlock, Turn, Usage
from tests.llm_rig import answer, request, text_of


async def test_it_says_that_it_is_no_language_model() -> None:
    deltas = await answer(DemoModel(pace=0), request("What is the weather in Zürich?"))
    text = text_of(deltas)
    assert "not a language model" in text
    assert "> What is the weather in Zürich?" in text
    assert 80 <= len(text.split()) <= 160
    assert deltas[-2:] == [Stop("end_turn"), Usage(6, len(deltas) - 2)]
    assert deltas == await answer(DemoModel(pace=0), request("What is the weather in Zürich?"))


async def test_it_says_what_arrived() -> None:
    blocks = [TextBlock("look at this " * 100), ImageBlock({"type": "url", "url": "http://h/i.png"})]
    asked = Request(messages=[Turn("user", "a"), Turn("assistant", "b"), Turn("user", blocks)], system="s", tools=[{}])
    text = text_of(await answer(DemoModel(pace=0), asked))
    assert "3 messages, 300 words in the last one of yours, a system prompt, 1 image, 1 tool" in text
    assert "…" in text


async def test_it_keeps_to_max_tokens_and_stop_sequences() -> None:
    short = await answer(DemoModel(pace=0), request(max_tokens=5))
    assert short[-2:] == [Stop("max_tokens"), Usage(1, 5)]
    assert len(short) == 7
    stopped = await answer(DemoModel(pace=0), request(stop_sequences=["language"]))
    assert stopped[-2] == Stop("stop_sequence", "language")
    assert "language" not in text_of(stopped)


async def test_it_takes_its_time() -> None:
    began = time.monotonic()
    await answer(DemoModel(pace=200), request(max_tokens=11))
    assert time.monotonic() - began >= 0.05
