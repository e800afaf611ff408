"""Records of any API: pulled from an address, or sent inline. Each becomes a memory, or is drawn from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice

import anyio
import msgspec

from app.errors import OutboundFailed
from app.integrations.job import Item, Job, New
from app.integrations.kinds.storing import Store, Text
from app.integrations.records import Mapping, Record, read_records
from app.integrations.types import Problem
from app.memory.types import CATEGORIES
from app.outbound import Outbound, checked_headers, checked_url

PULL_S = 120.0
PAUSES_S = (1.0, 4.0)
"""Before an address that may answer later is asked again."""
REMEMBER = 3
AT_ONCE = 200
LINED = "records.ndjson"


class Api:
    """The steps of ``api``. ``most_bytes``: of what is pulled, unpacked."""

    def __init__(
        self, store: Store, outbound: Outbound, most_bytes: int, pauses_s: tuple[float, ...] = PAUSES_S
    ) -> None:
        self._store = store
        self._outbound = outbound
        self._most_bytes = most_bytes
        self._pauses_s = pauses_s
        self.steps = (self.validation, self.fetching, self.parsing, self.memory_creation)

    async def validation(self, job: Job) -> None:
        """Whether there is anything to ask. Raises OutboundFailed."""
        if url := job.request.get("url"):
            checked_url(url)
            checked_headers(job.secret.get("headers") or {})

    async def fetching(self, job: Job) -> None:
        """What the address answers is kept. Raises OutboundFailed."""
        if not job.request.get("url"):
            return
        for pause in (*self._pauses_s, None):
            try:
                await self._pull(job)
                return
            except OutboundFailed as failure:
                if pause is None or not failure.retryable:
                    raise
                await job.log(f"{failure.message} It is asked again in {pause:g} s.", "warning")
            await anyio.sleep(pause)

    async def _pull(self, job: Job) -> None:
        async with self._outbound.open(
            "GET",
            job.request["url"],
            headers={"accept": "application/json, application/x-ndjson"} | (job.secret.get("headers") or {}),
            most_bytes=self._most_bytes,
            seconds=PULL_S,
        ) as answer:
            answer.expect_ok()
            kind = answer.headers.get("content-type", "").lower()
            name = LINED if any(word in kind for word in ("ndjson", "jsonl", "json-seq")) else "records.json"
            length = int(answer.headers.get("content-length") or 0) or self._most_bytes
            size = await job.keep(name, _watched(job, answer.__aiter__(), length))
        await job.log(f"{size:,} bytes received.")

    async def parsing(self, job: Job) -> None:
        """Every record becomes an item."""
        await job.forget_items()
        data, (name, *_) = await job.read(0), await job.files()
        request = job.request
        lined = request.get("format") == "ndjson" or (request.get("format") != "json" and name == LINED)
        found = await anyio.to_thread.run_sync(
            partial(
                read_records,
                data,
                mapping=msgspec.convert(request.get("mapping") or {}, Mapping),
                records_path=request.get("records_path"),
                content_type="ndjson" if lined else "",
            )
        )
        while batch := await anyio.to_thread.run_sync(partial(_batch, found)):
            await job.found(batch, step=REMEMBER)
        await job.log(f"{job.items_total:,} records found.")
        await job.forget_files()

    async def memory_creation(self, job: Job) -> None:
        """Records become memories."""
        await job.each(self._remember)

    async def _remember(self, job: Job, item: Item) -> None:
        record = msgspec.json.decode(item.payload, type=Record)
        category = record.category if record.category in CATEGORIES else job.request.get("category")
        told = {"record_id": record.id, "title": record.title, "category": record.category}
        text = Text(
            text=record.text,
            said_at=record.said_at or datetime.now(UTC),
            categories=[category] if category else [],
            metadata={name: value for name, value in told.items() if value is not None} | record.metadata,
        )
        if job.request.get("infer"):
            await self._store.facts(job, item, text)
        else:
            await self._store.text(job, item, text)


async def _watched(job: Job, pieces: AsyncIterator[bytes], length: int) -> AsyncIterator[bytes]:
    size = 0
    async for piece in pieces:
        size += len(piece)
        job.came(size / length)
        yield piece


def _batch(found: Iterator[Record | Problem]) -> list[New | Problem]:
    return [
        one if isinstance(one, Problem) else New(item_id=one.id, payload=msgspec.json.encode(one))
        for one in islice(found, AT_ONCE)
    ]
