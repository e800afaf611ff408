"""Whatever is sent, the worker lives, and the integration ends in a state with its reasons."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.database import Database
from app.integrations.exports.reader import PLATFORMS
from app.integrations.social.read import PLATFORMS as SOCIAL
from app.memory.types import Owner
from tests.export_rig import FILES
from tests.export_samples import zipped
from tests.integration_rig import CHATS, conversation, send, status, worker
from tests.social_rig import FILES as ARCHIVES
from tests.social_rig import archive
from tests.test_exports_fuzz import as_json_of, changed, torn

FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,  # one database for all examples: they leave nothing to each other
    ],
)


async def ends(
    database: Database, owner: Owner, kind: str, platform: str, request: Any, name: str, data: bytes
) -> None:
    sent = await send(database, owner, kind, platform, request, {name: data})
    await worker(database).until_idle()
    body = await status(database, sent, errors=True, logs=True)
    assert body.status in ("completed", "failed")
    assert isinstance(body.errors, list)
    assert len(body.errors) == body.stats.errors_count
    assert all(error.code and error.message for error in body.errors)
    assert not any(error.code == "INTERNAL_ERROR" for error in body.errors), body.errors
    assert body.errors or body.status == "completed"
    assert body.stats.items_processed == body.stats.items_total or body.status == "failed"


def mutated(data: st.DataObject, files: dict[str, bytes]) -> bytes:
    """The zip of these files with one of them changed, or itself torn."""
    name = data.draw(st.sampled_from(sorted(files)))
    how = data.draw(st.sampled_from(["torn", "values", "zip"]))
    if how == "zip":
        return torn(data.draw, zipped(files))
    if how == "values" and name.endswith(".json"):
        return zipped(files | {name: as_json_of(changed(data.draw, json.loads(files[name])))})
    return zipped(files | {name: torn(data.draw, files[name])})


@pytest.mark.parametrize("platform", PLATFORMS)
@FEW
@given(data=st.data())
async def test_any_export_ends_with_its_reasons(
    database: Database, owner: Owner, platform: str, data: st.DataObject
) -> None:
    request = {"form": "file", "me": data.draw(st.sampled_from([None, "Ann", "\u200e"])), "memories": True}
    claimed = data.draw(st.sampled_from([platform, "auto"]))
    await ends(database, owner, "chat", claimed, request, "x.zip", mutated(data, FILES[platform]()))


@pytest.mark.parametrize("platform", SOCIAL)
@FEW
@given(data=st.data())
async def test_any_archive_ends_with_its_reasons(
    database: Database, owner: Owner, platform: str, data: st.DataObject
) -> None:
    files = {name: text.encode() for name, text in ARCHIVES[platform].items()}
    raw = data.draw(st.sampled_from([archive(platform), b""])) if data.draw(st.booleans()) else mutated(data, files)
    await ends(database, owner, "social", platform, {"by": "archive", "memories": True}, "x.zip", raw)


@FEW
@given(data=st.data())
async def test_any_chat_data_ends_with_its_reasons(database: Database, owner: Owner, data: st.DataObject) -> None:
    sample = [conversation("a", "I sing.", "Well done."), conversation("b", "I have two cats.")]
    raw = as_json_of(changed(data.draw, sample))
    raw = torn(data.draw, raw) if data.draw(st.booleans()) else raw
    await ends(database, owner, "chat", "custom", CHATS, "chat_data.json", raw)


@FEW
@given(data=st.data())
async def test_any_records_end_with_their_reasons(database: Database, owner: Owner, data: st.DataObject) -> None:
    sample = [{"id": n, "text": f"Box {n} is full.", "time": 1_700_000_000 + n, "tags": ["a"]} for n in range(3)]
    raw = as_json_of(changed(data.draw, sample))
    raw = torn(data.draw, raw) if data.draw(st.booleans()) else raw
    mapping = data.draw(st.sampled_from([None, {"text": "{text} {tags.0}"}, {"metadata": {"x": "tags"}}]))
    request = {"url": None, "mapping": mapping, "infer": data.draw(st.booleans())}
    await ends(database, owner, "api", "api", request, "records.json", raw)
