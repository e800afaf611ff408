"""Documents: each is read in a process of its own, cut into chunks, and each chunk becomes a memory.

A document is an item until it is cut; from then on its chunks are. One that cannot be read stays, with the reason.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from app.integrations.documents.bounded import read_document_bounded
from app.integrations.documents.cut import cut
from app.integrations.documents.types import Chunk, Document
from app.integrations.job import Item, Job, New
from app.integrations.kinds.storing import Store, Text
from app.integrations.types import Problem

PARSE, CUT, REMEMBER = 1, 2, 3


class _Sent(msgspec.Struct):
    file: int


class _Part(msgspec.Struct):
    """A chunk and the document it is of."""

    file: str
    title: str
    chunk: Chunk


class _Parsed(msgspec.Struct):
    name: str
    document: Document


class File:
    """The steps of ``file``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.steps = (self.upload, self.parsing, self.chunking, self.memory_creation)

    async def upload(self, job: Job) -> None:
        """Every file that came becomes an item."""
        await job.forget_items()
        names = await job.files()
        found = [New(item_id=name, payload=msgspec.json.encode(_Sent(file))) for file, name in enumerate(names)]
        await job.found([*found], step=PARSE)
        await job.log(f"{len(names)} file{'s' * (len(names) != 1)} received.")

    async def parsing(self, job: Job) -> None:
        """Files become texts."""
        await job.each(self._parse)

    async def chunking(self, job: Job) -> None:
        """Texts become chunks."""
        await job.each(self._cut)

    async def memory_creation(self, job: Job) -> None:
        """Chunks become memories."""
        await job.each(self._remember)

    async def _parse(self, job: Job, item: Item) -> None:
        sent = msgspec.json.decode(item.payload, type=_Sent)
        document = await read_document_bounded(item.item_id, await job.read(sent.file))
        await job.moved(item, msgspec.json.encode(_Parsed(item.item_id, document)), CUT)
        pages = len({piece.page for piece in document.pieces if piece.page})
        await job.log(f"{item.item_id} is read" + (f": {pages} pages." if pages else "."))

    async def _cut(self, job: Job, item: Item) -> None:
        parsed = msgspec.json.decode(item.payload, type=_Parsed)
        document, request = parsed.document, job.request
        chunks = cut(document.pieces, request.get("chunk_size", 1000), request.get("overlap", 200))
        problems: list[New | Problem] = [
            Problem(item_id=f"{parsed.name}: {one.item_id}", code=one.code, message=one.message)
            for one in document.problems
        ]
        new: list[New | Problem] = [
            New(
                item_id=f"{parsed.name}#{chunk.position}",
                payload=msgspec.json.encode(_Part(parsed.name, document.title, chunk)),
            )
            for chunk in chunks
        ]
        await job.found(new + problems, step=REMEMBER, instead_of=item)

    async def _remember(self, job: Job, item: Item) -> None:
        part = msgspec.json.decode(item.payload, type=_Part)
        chunk, category = part.chunk, job.request.get("category")
        told = {"file": part.file, "title": part.title, "page": chunk.page, "heading": chunk.heading}
        text = Text(
            text=chunk.text,
            said_at=datetime.now(UTC),
            categories=[category] if category else [],
            metadata={"position": chunk.position} | {name: value for name, value in told.items() if value is not None},
            source=part.file,
        )
        if job.request.get("extract_mode") == "facts":
            await self._store.facts(job, item, text)
        else:
            await self._store.text(job, item, text)
