"""The models: whether the file can be read, what is set to no effect, and, where wanted, whether they answer."""

from __future__ import annotations

import importlib
import time
from contextlib import AsyncExitStack
from functools import partial

import anyio
import anyio.to_thread
import msgspec

from app.doctor.finding import Finding
from app.errors import RepriseError, StartFailed
from app.llm import openai_wire
from app.llm.models import DEFAULT, DEMO, Models, load_models
from app.llm.types import Model, Request, Turn
from app.memory.embedding import OFF, open_embedder
from app.resources import http_client
from app.settings import Settings

ANSWER_S = 60.0
QUESTION = Request(messages=[Turn("user", "Say OK.")], max_tokens=16)


def known(settings: Settings) -> list[Finding]:
    """The aliases, the model that draws memories, and what the file hides."""
    try:
        models = load_models(settings)
    except StartFailed as error:
        return [Finding("Models", "bad", error.message, "correct the models file or the settings")]
    if models.target(DEFAULT).path == DEMO:
        found = [Finding("Models", "warn", "only the built-in demo", "give --models FILE or set REPRISE_MODEL")]
    else:
        found = [Finding("Models", "ok", ", ".join(models.names()))]
    if settings.model and settings.models_file and models.target(DEFAULT) != _without_file(settings):
        said = f"REPRISE_MODEL is not used: {settings.models_file} has an alias {DEFAULT}"
        found.append(Finding("Models", "warn", said, "unset one of the two"))
    if settings.memory_model and (unknown := models.unknown(settings.memory_model)):
        found.append(Finding("Memory model", "bad", unknown, "correct REPRISE_MEMORY_MODEL"))
    return found


def _without_file(settings: Settings) -> object:
    return load_models(msgspec.structs.replace(settings, models_file="")).target(DEFAULT)


async def called(settings: Settings) -> list[Finding]:
    """Every model asked once, all at the same time, and a remote embedding model too."""
    try:
        models = load_models(settings)
    except StartFailed:
        return []  # `known` has told
    names = _worth_asking(models)
    if settings.memory_model and not models.unknown(settings.memory_model):
        names = list(dict.fromkeys([*names, settings.memory_model]))
    found: dict[str, Finding] = {}

    async def ask(name: str, model: Model) -> None:
        found[name] = await _asked(f"Model {name}", model)

    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(http_client())
        litellm = None
        if any(models.target(name).path == "litellm" for name in names):
            module = await anyio.to_thread.run_sync(importlib.import_module, "app.llm.litellm_door")
            stack.push_async_callback(module.close)
            litellm = module.door()
        opened = partial(models.open, direct=openai_wire.door(http), litellm=litellm)
        async with anyio.create_task_group() as asking:
            for name in names:
                asking.start_soon(ask, name, opened(name))
    findings = [found[name] for name in names]
    if settings.embedding_model not in ("", OFF):
        findings.append(await _embedded(settings))
    return findings


def _worth_asking(models: Models) -> list[str]:
    """The aliases, without the demo, and without ``default`` where another leads to the same."""
    names = [name for name in models.names() if models.target(name).path != DEMO]
    others = [msgspec.structs.replace(models.target(name), name=DEFAULT) for name in names if name != DEFAULT]
    return [name for name in names if name != DEFAULT or models.target(DEFAULT) not in others]


async def _asked(subject: str, model: Model) -> Finding:
    began, first = time.monotonic(), 0.0
    try:
        with anyio.fail_after(ANSWER_S):
            async with model.stream(msgspec.structs.replace(QUESTION, model=model.name)) as batches:
                async for _ in batches:
                    first = first or time.monotonic() - began
    except TimeoutError:
        return Finding(subject, "bad", f"no whole answer within {ANSWER_S:g} s", "look at what serves it")
    except RepriseError as error:
        return Finding(subject, "bad", error.message, "correct its alias, its key or its address")
    took = time.monotonic() - began
    return Finding(subject, "ok", f"answers: first token after {first:.2f} s, all after {took:.2f} s")


async def _embedded(settings: Settings) -> Finding:
    subject = "Embedding model"
    began = time.monotonic()
    try:
        with anyio.fail_after(ANSWER_S):
            embedder = await open_embedder(settings)
            assert embedder is not None
            await embedder.embed(["hello"])
    except TimeoutError:
        return Finding(subject, "bad", f"no answer within {ANSWER_S:g} s", "look at what serves it")
    except RepriseError as error:
        return Finding(subject, "bad", error.message, "correct REPRISE_EMBEDDING_MODEL, its key or its address")
    return Finding(
        subject, "ok", f"{embedder.name}: {embedder.dimension} numbers after {time.monotonic() - began:.2f} s"
    )
