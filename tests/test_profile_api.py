"""`/v1/users/profile` over real HTTP: sections, bios in their forms, a person's own words, privacy; never another's."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.memory.bio import FORMATS, STYLES
from tests.live import Live
from tests.memory_client import PATH as MEMORIES
from tests.memory_client import fields, key_for, memory_web
from tests.sse import error_of

PATH = "/v1/users/profile"
SCOPES = ("memories:read", "memories:write", "profile:read", "profile:write")
FACTS = (
    ("I am called Ada.", "identity"),
    ("I work as a nurse in a big hospital.", "career"),
    ("I love climbing.", "interests"),
    ("I hate loud music.", "interests"),
    ("I am learning Portuguese.", "learning"),
    ("I am allergic to peanuts.", "health"),
)


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with memory_web("tprofiles", redis_url, database_url, tmp_path_factory) as running:
        yield running


@pytest.fixture
async def user() -> str:
    return f"u{secrets.token_hex(4)}"


@pytest.fixture
async def client(web: Live, user: str) -> AsyncIterator[httpx.AsyncClient]:
    async with web.client(await key_for(web, user, *SCOPES)) as made:
        yield made


async def remember(client: httpx.AsyncClient, *facts: tuple[str, str]) -> list[str]:
    """Memories of one category each; their ids."""
    made = []
    for text, category in facts:
        answer = await client.post(MEMORIES, json={"text": text, "infer": False})
        made.append(answer.json()["data"]["memories"][0]["id"])
        await client.patch(f"{MEMORIES}/{made[-1]}", json={"category": category})
    return made


async def data(client: httpx.AsyncClient, path: str = PATH, **params: str) -> dict[str, Any]:
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "success"
    return dict(answer.json()["data"])


async def bio(client: httpx.AsyncClient, **params: str) -> str:
    return str((await data(client, f"{PATH}/bio", **params))["bio"])


async def test_a_profile_holds_the_sections_asked_for(client: httpx.AsyncClient, user: str) -> None:
    """PROTOCOL U1."""
    error_of(await client.get(PATH), 404, "PROFILE_NOT_FOUND")
    await remember(client, *FACTS)
    whole = await data(client)
    assert set(whole) == {"user_id", "bio", "categories", "insights", "stats", "traits"}
    assert whole["user_id"] == user
    assert whole["bio"]["made_by"] == "composed"
    assert {one["category"]: one["count"] for one in whole["categories"]} == {
        "identity": 1,
        "career": 1,
        "interests": 2,
        "learning": 1,
        "health": 1,
    }
    assert whole["stats"]["memories"] == len(FACTS)
    assert {("likes", "They love climbing."), ("dislikes", "They hate loud music.")} <= {
        (one["kind"], one["trait"]) for one in whole["traits"]
    }
    some = await data(client, include="stats,traits", category="interests")
    assert set(some) == {"user_id", "stats", "traits"}
    assert {one["trait"] for one in some["traits"]} == {"They love climbing.", "They hate loud music."}


async def test_a_bio_needs_enough_and_says_how_much_there_is(client: httpx.AsyncClient) -> None:
    """PROTOCOL U2."""
    for known in (0, 4):
        await remember(client, *FACTS[:known])
        for answer in (
            await client.get(f"{PATH}/bio"),
            await client.patch(f"{PATH}/bio", json={"regenerate": True}),
        ):
            details = error_of(answer, 404, "BIO_NOT_FOUND")["error"]["details"]
            assert details == {
                "memories": known,
                "categories": 3 if known else 0,
                "memories_needed": 5,
                "categories_needed": 2,
            }
    assert (await data(client))["bio"] is None


async def test_a_bio_that_has_nothing_to_tell_does_not_say_that_more_is_needed(client: httpx.AsyncClient) -> None:
    await remember(client, *((f"I love tram {n}.", "interests" if n % 2 else "health") for n in range(6)))
    answer = await client.get(f"{PATH}/bio", params={"format": "professional"})
    error = error_of(answer, 404, "BIO_NOT_FOUND")["error"]
    assert (error["details"]["memories"], "needs" in error["message"]) == (6, False)


async def test_a_bio_comes_in_every_format_and_style(client: httpx.AsyncClient) -> None:
    """PROTOCOL U2."""
    await remember(client, *FACTS)
    made = {(form, style): await bio(client, format=form, style=style) for form in FORMATS for style in STYLES}
    assert all("nurse" in text or form == "short" for (form, _), text in made.items())
    assert made["bullets", "narrative"].startswith("- ")
    assert len(made["short", "narrative"]) < len(made["full", "narrative"])
    assert "peanuts" in made["full", "formal"] and "peanuts" not in made["professional", "formal"]
    assert len({made["full", style] for style in STYLES}) == len(STYLES)


async def test_a_bio_follows_corrections_and_deletions_at_once(client: httpx.AsyncClient) -> None:
    """PROTOCOL U3."""
    made = await remember(client, *FACTS)
    assert "climbing" in await bio(client)
    await client.patch(f"{MEMORIES}/{made[2]}", json={"content": "I love sailing."})
    assert "sailing" in await bio(client) and "climbing" not in await bio(client)
    await client.delete(f"{MEMORIES}/{made[5]}")
    assert "peanuts" not in await bio(client)
    await remember(client, ("I play the cello.", "interests"))
    assert "cello" not in await bio(client)
    assert "cello" in await bio(client, refresh="true")


async def test_what_is_private_stays_out_unless_it_is_let_in(client: httpx.AsyncClient) -> None:
    """PROTOCOL U4."""
    await remember(client, *FACTS, ("I see a therapist on Mondays.", "private"))
    settings = {"include_private": False, "exclude_categories": [], "memories_from_history": False}
    assert await data(client, f"{PATH}/privacy") == settings
    for answer in (await client.get(PATH), await client.get(f"{PATH}/bio")):
        assert "therapist" not in answer.text
    assert "peanuts" not in await bio(client, exclude_categories="health,travel")
    change = {"include_private": True, "exclude_categories": ["health", "career"]}
    answer = await client.patch(f"{PATH}/privacy", json=change)
    assert answer.json()["data"] == settings | change == await data(client, f"{PATH}/privacy")
    text = (await client.get(PATH)).text
    assert "therapist" in text and "peanuts" not in text and "nurse" not in text
    await client.patch(f"{PATH}/privacy", json={"include_private": False})
    assert "therapist" not in (await client.get(PATH)).text


async def test_the_persons_own_words_stand_until_a_bio_is_asked_for(client: httpx.AsyncClient) -> None:
    """PROTOCOL U5."""
    answer = await client.patch(f"{PATH}/bio", json={"bio": " I am me, and that is enough. "})
    assert (answer.status_code, answer.json()["data"]["made_by"]) == (200, "user")
    await remember(client, *FACTS)
    assert await bio(client, refresh="true", format="bullets") == "I am me, and that is enough."
    found = (await client.post(f"{MEMORIES}/search", json={"query": "climbing"})).json()["data"]
    assert found["user_bio"] == "I am me, and that is enough."
    without = (await client.post(f"{MEMORIES}/search", json={"query": "climbing", "include_bio": False})).json()
    assert without["data"]["user_bio"] is None
    answer = await client.patch(f"{PATH}/bio", json={"regenerate": True, "format": "short"})
    assert answer.json()["data"]["made_by"] == "composed"
    assert "I am me" not in await bio(client)


@pytest.mark.parametrize(
    ("path", "params", "wrong"),
    [
        ("", {"include": "bio,shoes", "category": "sports", "refresh": "maybe"}, ["include", "category", "refresh"]),
        (
            "/bio",
            {"format": "long", "style": "rude", "exclude_categories": "health,x", "refresh": "2"},
            ["format", "style", "exclude_categories", "refresh"],
        ),
    ],
)
async def test_every_wrong_parameter_is_named(
    client: httpx.AsyncClient, path: str, params: dict[str, str], wrong: list[str]
) -> None:
    assert fields(await client.get(PATH + path, params=params)) == wrong


@pytest.mark.parametrize(
    ("path", "body", "wrong"),
    [
        ("/bio", {}, ["bio"]),
        ("/bio", {"bio": "a", "regenerate": True}, ["bio"]),
        ("/bio", {"bio": " "}, ["bio"]),
        ("/bio", {"bio": "a\x00"}, ["bio"]),
        ("/bio", {"bio": "x" * 6_001}, ["bio"]),
        ("/bio", {"regenerate": True, "format": "long", "style": "rude"}, ["format", "style"]),
        ("/privacy", {}, ["body"]),
        ("/privacy", {"include_private": "yes", "exclude_categories": ["x"]}, None),
    ],
)
async def test_every_wrong_field_is_named(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], wrong: list[str] | None
) -> None:
    found = fields(await client.patch(PATH + path, json=body))
    assert set(wrong or ["include_private", "exclude_categories[0]"]) <= set(found)
    error_of(await client.get(PATH), 404, "PROFILE_NOT_FOUND")


async def test_a_profile_needs_its_scopes_and_is_its_users_alone(web: Live, client: httpx.AsyncClient) -> None:
    """PROTOCOL U6."""
    await remember(client, *FACTS)
    for path in ("", "/bio", "/privacy"):
        error_of(await client.get(PATH + path, params={"user_id": "bob"}), 403, "FORBIDDEN")
    for path, body in (("/bio", {"bio": "x"}), ("/privacy", {"include_private": True})):
        error_of(await client.patch(PATH + path, json=body | {"user_id": "bob"}), 403, "FORBIDDEN")
    async with web.client(await key_for(web, None, "profile:read")) as reader:
        error_of(await reader.patch(f"{PATH}/bio", json={"bio": "x"}), 403, "FORBIDDEN")
        error_of(await reader.patch(f"{PATH}/privacy", json={"include_private": True}), 403, "FORBIDDEN")
        error_of(await reader.get(PATH), 404, "PROFILE_NOT_FOUND")
    async with web.client(await key_for(web, None, "profile:write")) as writer:
        for path in ("", "/bio", "/privacy"):
            error_of(await writer.get(PATH + path), 403, "FORBIDDEN")
