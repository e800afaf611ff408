"""The commands of the README work as they are printed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import anyio
import anyio.to_thread

from app.database import open_pool
from tests.integration_rig import worker
from tests.system import System
from tests.test_history_store import drain

SHELL = "/usr/local/bin:/usr/bin:/bin"
README = (Path(__file__).parent.parent / "README.md").read_text()


def block(title: str, number: int = 1) -> str:
    """The shell commands below a heading, of its first block or a later one."""
    return README.split(f"## {title}\n")[1].split("```sh\n")[number].split("```")[0]


async def printed(live: System, commands: str, **variables: str) -> str:
    """What a shell prints that runs them against this deployment."""
    script = commands.replace("http://127.0.0.1:8000", live.url)
    run = lambda: subprocess.run(  # noqa: E731
        ["bash", "-eu", "-c", script], capture_output=True, text=True, check=True, timeout=60, env=dict(variables)
    )
    return (await anyio.to_thread.run_sync(run)).stdout


async def test_memory_in_five_curls(live: System) -> None:
    key = await live.key_of("readme")
    commands = block("Memory in five curls").replace("curl -s", "echo; curl -s").replace("$(echo; ", "$(")
    said = await printed(live, commands, KEY=key, API=f"{live.url}/v1/messages/async", PATH=SHELL)
    made, corrected, sent, forgotten = [json.loads(line) for line in said.splitlines() if line]
    assert [one["memory"] for one in made["data"]["memories"]] == ["I live in Lyon.", "I am allergic to peanuts."]
    assert corrected["data"]["memory"] == "I live in Porto."
    assert corrected["data"]["id"] == made["data"]["memories"][0]["id"]
    assert sent["status"] == "pending"
    assert forgotten["data"]["backup_id"]
    async with live.client(key) as client:
        await live.ended(client, sent["message_id"])
        listed = (await client.get("/v1/memories")).json()["data"]
    assert "I live in Porto." not in [one["memory"] for one in listed]


async def test_bring_the_past_along(live: System) -> None:
    key = await live.key_of("readme-history")
    commands = block("Bring the past along")
    first, rest = commands.split("# how far it is", 1)
    queued = json.loads(await printed(live, first, KEY=key, PATH=SHELL))
    assert queued["conversation"]["status"] == "queued"
    assert queued["conversation"]["messageCount"] == 2

    async with open_pool(live.settings) as database:
        await drain(database)  # there is no background process in this deployment
    setup = next(line for line in first.splitlines() if line.startswith("HISTORY"))
    rest = f"{setup}\n# {rest}".replace("curl -s", "echo; curl -s")
    said = await printed(live, rest, KEY=key, PATH=SHELL)
    listed, found, injected = [json.loads(line) for line in said.splitlines() if line]
    assert listed["chats"][0]["platformConversationId"] == "c-1"
    assert found["results"][0]["messageId"] == "m-2"
    assert "[1] 2026-04-27, A walk. assistant: Along the Douro." in injected["content"]
    assert 0 < injected["tokenCount"] <= 200


async def test_what_comes_in_the_background_is_watched_to_its_end(live: System) -> None:
    key = await live.key_of("readme-integrations")
    async with open_pool(live.settings) as database, anyio.create_task_group() as group:
        await database.execute("DELETE FROM integrations")  # of other tests: nothing here may pull what they named
        group.start_soon(worker(database).run)  # there is no background process in this deployment
        said = await printed(live, block("Bring the past along", 2), KEY=key, PATH=SHELL)
        group.cancel_scope.cancel()
    events = [line for line in said.splitlines() if line.startswith("event: ")]
    assert events[0] == "event: progress"
    assert events[-1] == "event: completed"


async def test_be_told(live: System) -> None:
    key = await live.key_of("readme-webhooks")
    commands = block("Be told").replace("curl -s", "echo; curl -s").replace("$(echo; ", "$(")
    said = await printed(live, commands, KEY=key, PATH=SHELL)
    whole, dead, rotated, deleted = [json.loads(line)["data"] for line in said.splitlines() if line]
    assert (whole["event"], whole["status"], whole["log"]) == ("webhook.test", "pending", [])
    assert dead == []
    assert rotated["secret"].startswith("whsec_")
    assert deleted == {"id": rotated["id"], "deleted": True}
