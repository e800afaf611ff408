"""P14, and P15 through the route: bringing conversations, and finding in them what answers a question."""

from __future__ import annotations

import json
import random
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from app.history.tokens import count
from tests.bench import retrieval
from tests.bench.callers import first_tokens, in_process
from tests.bench.crowd import Plan, observe_all
from tests.bench.harness import KEY, Gateway, Upstream, gateway, wait_until
from tests.bench.options import Options, say
from tests.bench.report import Figure, median, number, percentile
from tests.bench.retrieval import AT, evidence_of
from tests.bench.tokens import FIRST, added_ms
from tests.bench.wire import Caller, get, observe, post

PATH = "/api/chat-history"
INGEST = f"{PATH}/ingest/custom-online"
LONG_TOKENS = 90_000
LONG_WORDS = 60
MANY, MANY_QUICK, EACH = 1_000, 100, 20
LIMIT_S = 900.0
POLL_S = 1.0
BESIDE = "slowstart2-t200-p50-stamp"
BESIDE_OBSERVERS = 200
FIRSTS = 60
_WORDS = """
the of and to in that it was for on with as his they at be this from have or by one had not but what all were when we
river window garden engine letter winter market doctor bridge kitchen violin mountain ticket painter harbour breakfast
lesson cousin train jacket coffee journal concert village budget tennis lamp orchard museum bicycle walked thought
"""


def p14(upstream: Upstream, options: Options) -> list[Figure]:
    """Bringing a conversation of 90,000 tokens, and 1,000 of 20 messages: until found by words, and until indexed."""
    rng = random.Random(1)
    many = MANY_QUICK if options.quick else MANY
    with gateway(upstream, [BESIDE, FIRST]) as run:
        caller = run.caller()
        in_process(first_tokens, run.address, KEY, FIRST, 1, 5, False)
        _bring(caller, "warm", [f"warm {_sentence(rng, 12)}"])
        _indexed(caller)
        texts = _long(rng)
        began = time.monotonic()
        _bring(caller, "long", texts)
        wait_until(lambda: _found(caller, f"zebra{len(texts) - 1}"), LIMIT_S, "the last turn")
        searchable = time.monotonic() - began
        _indexed(caller)
        indexed = time.monotonic() - began
        began = time.monotonic()
        for n in range(many):
            _bring(caller, f"many-{n}", [_sentence(rng, 15) for _ in range(EACH)])
        taken = time.monotonic() - began
        delays = _beside(run)
        upstream.reset()
        firsts = added_ms(upstream, in_process(first_tokens, run.address, KEY, FIRST, 1, FIRSTS, False))
        wait_until(lambda: not _waiting(caller, "queued"), LIMIT_S, "the last conversation")
        stored = time.monotonic() - began
        _indexed(caller)
        whole = time.monotonic() - began
        caller.close()
    messages = many * EACH
    note = f"{len(texts)} messages; each poll is a search"
    p2 = f"while {number(_share(stored, whole))} % of the time went into vectors; p50"
    figures = [
        Figure(measure="P14", name="90,000 tokens to found by words", value=searchable, unit="s", bar=2, note=note),
        Figure(measure="P14", name="90,000 tokens to indexed", value=indexed, unit="s", bar=60),
        Figure(measure="P14", name=f"{many:,} conversations of {EACH}", value=messages / whole, unit="messages/s"),
        Figure(measure="P14", name="P2's p50 meanwhile", value=median(delays), unit="ms", bar=4, note=p2),
        Figure(measure="P14", name="P2's p99 meanwhile", value=percentile(delays, 0.99), unit="ms", bar=12),
        Figure(measure="P14", name="P5's p50 meanwhile, 1 at once", value=median(firsts), unit="ms", bar=6),
        Figure(measure="P14", name="P5's p99 meanwhile, 1 at once", value=percentile(firsts, 0.99), unit="ms", bar=25),
    ]
    figures[2].bar, figures[2].at_least = 80, True
    figures[2].note = f"to indexed; to found by words {number(messages / stored)}, taken in {number(messages / taken)}"
    return figures


def _share(stored: float, whole: float) -> float:
    return 100 * (whole - stored) / whole


def p15(upstream: Upstream, options: Options) -> list[Figure]:
    """Evidence found among ten turns, on LoCoMo-shaped conversations (--data FILE), categories 1 to 4, no model."""
    figures = retrieval.p15(upstream, options)
    return figures + ([] if options.data is None else [_by_routes(upstream, options.data)])


def _by_routes(upstream: Upstream, data: Path) -> Figure:
    """The same by the search route, of conversations brought by the ingest route, roles without names."""
    shares: list[float] = []
    with gateway(upstream, ["t3"]) as run:
        caller = run.caller()
        for person, one in enumerate(msgspec.json.decode(data.read_bytes())):
            user = f"person-{person}"
            known = _bring_sessions(caller, one["conversation"], user)
            _indexed(caller, user)
            for question in one["qa"]:
                wanted = evidence_of(question) & known
                if question["category"] == 5 or not wanted:
                    continue
                status, body = caller.ask(
                    post(f"{PATH}/search", KEY, {"query": question["question"], "limit": AT, "user_id": user})
                )
                if status != 200:
                    raise RuntimeError(f"the search was answered {status}: {body}")
                shares.append(len({found["messageId"] for found in body["results"]} & wanted) / len(wanted))
            say(f"P15: conversation {person + 1} by the route: {len(shares)} questions")
        caller.close()
    value = 100 * sum(shares) / max(1, len(shares))
    figure = Figure(measure="P15", name="retrieval, through the routes", value=value, unit="%", bar=75)
    figure.at_least, figure.note = True, f"{len(shares)} questions; evidence recall at {AT}, roles without names"
    return figure


def _beside(run: Gateway) -> list[float]:
    """Delays at 200 observers, in milliseconds, while the background process has its hands full."""
    caller = run.caller()
    request = observe(caller.start(BESIDE), KEY)
    caller.close()
    crowd = observe_all(Plan(address=run.address, requests=[request], repeat=BESIDE_OBSERVERS, stamps=True))
    return [delay / 1e6 for delay in crowd.report().delays_ns]


def _sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS.split(), k=words))


def _long(rng: random.Random) -> list[str]:
    texts: list[str] = []
    tokens = 0
    while tokens < LONG_TOKENS - 2 * LONG_WORDS:
        texts.append(f"{_sentence(rng, LONG_WORDS)} zebra{len(texts)}")
        tokens += count(texts[-1])
    return texts


def _bring(caller: Caller, name: str, texts: list[str]) -> None:
    messages = [{"id": str(n), "role": "human", "content": text} for n, text in enumerate(texts)]
    _put(caller, {"conversation": {"id": name, "messages": messages}})


def _put(caller: Caller, body: dict[str, Any]) -> None:
    status, answer = caller.ask(post(INGEST, KEY, body))
    if status != 200:
        raise RuntimeError(f"the ingest was answered {status}: {json.dumps(answer)[:300]}")


def _found(caller: Caller, word: str) -> bool:
    body = {"query": word, "limit": 1, "skipRerank": True}
    return bool(caller.ask(post(f"{PATH}/search", KEY, body))[1]["results"])


def _waiting(caller: Caller, *states: str, user: str = "default") -> bool:
    """Whether a conversation is in one of these states. Those that were brought first are embedded last."""
    page = int(_page(caller, user, 1)["totalPages"])
    while page > 0:
        if any(chat["status"] in states for chat in _page(caller, user, page)["chats"]):
            return True
        page -= 1
    return False


def _page(caller: Caller, user: str, page: int) -> dict[str, Any]:
    body: dict[str, Any] = caller.ask(get(f"{PATH}/chats?page={page}&pageSize=100&user_id={user}", KEY))[1]
    return body


def _indexed(caller: Caller, user: str = "default") -> None:
    """Waits until every conversation is, looking seldom: embedding gives way to whoever uses the machine."""
    end = time.monotonic() + LIMIT_S
    while _waiting(caller, "queued", "processing", user=user):
        if time.monotonic() > end:
            raise TimeoutError("waited in vain for conversations to be indexed")
        time.sleep(POLL_S)


def _bring_sessions(caller: Caller, conversation: dict[str, Any], user: str) -> set[str]:
    """Each session as a conversation of its own, one speaker as the human; the ids of the turns."""
    known: set[str] = set()
    session = 0
    while f"session_{session + 1}" in conversation:
        session += 1
        rows = conversation[f"session_{session}"]
        began = datetime.strptime(conversation[f"session_{session}_date_time"], "%I:%M %p on %d %B, %Y")
        messages = [
            {
                "id": row["dia_id"],
                "role": "human" if row["speaker"] == conversation["speaker_a"] else "assistant",
                "content": " ".join(filter(None, (row["text"], row.get("blip_caption")))),
                "createdAt": f"{(began + timedelta(minutes=n)).isoformat()}Z",
            }
            for n, row in enumerate(rows)
        ]
        _put(caller, {"conversation": {"id": str(session), "messages": messages}, "user_id": user})
        known |= {row["dia_id"] for row in rows}
    return known
