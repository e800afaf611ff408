"""`reprise dead-letters` as an operator types it."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from app.chat import groups as groups_module
from app.chat.groups import Groups
from app.settings import Settings
from tests.rig import claim, lifecycle_on, new_message

ROOT = Path(__file__).parent.parent


async def reprise(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "app", "dead-letters", *arguments]
    done = await anyio.run_process(command, cwd=ROOT, env=settings.child_environment(), check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_list_show_requeue_drop(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups_module, "MAX_DELIVERIES", 1)
    assert await reprise(settings, "list") == (0, "", "no dead letters\n")
    async with lifecycle_on(settings) as lifecycle:
        groups = Groups(lifecycle.scripts, lifecycle.keys)
        await groups.add("remember")
        for message_id in ("m1", "m2"):
            await lifecycle.create(new_message(message_id))
            message = await claim(lifecycle, message_id)
            await lifecycle.finish(message, message.token, "completed", [], 1, [b"z", b""])
        base = lifecycle.keys.bases[0]
        for delivery in await groups.take("remember", "t", base, 10):
            assert await groups.fail("remember", delivery, "no room left") == "dead"
        first, second = await groups.dead_letters()
        status, out, _ = await reprise(settings, "list", "--group", "remember")
        assert status == 0
        assert all(word in out for word in (first.id, second.id, "m1", "m2", "no room left"))
        status, out, _ = await reprise(settings, "show", first.id)
        assert (status, "no room left" in out) == (0, True)
        assert await reprise(settings, "requeue", first.id) == (0, f"{first.id} requeued\n", "")
        assert [d.member for d in await groups.take("remember", "t", base, 10)] == ["acc/m1"]
        assert (await reprise(settings, "drop", second.id))[:2] == (0, f"{second.id} dropped\n")
        status, out, error = await reprise(settings, "drop", second.id)
        assert (status, out) == (1, f"{second.id} unknown\n")
        assert error == f"reprise: there is no dead letter {second.id}\n"
