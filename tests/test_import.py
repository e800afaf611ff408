"""`reprise import`: an export from another platform is found, once however often it is brought."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anyio

from app.database import Database
from app.history import chats
from app.history.chats import Wanted
from app.history.search import HistorySearch
from app.memory.conversations import find_owner
from app.memory.search import Search
from app.memory.types import Owner
from app.settings import Settings
from tests.bench.harness import ROOT
from tests.social_rig import archive

CHAT = """31/12/2023, 22:15 - Ada: I moved to Porto last week
and bought a bicycle.
31/12/2023, 22:16 - Bob: Lovely! Which street?
"""


async def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """`reprise import` for the account ``test``."""
    await call(settings, "key", "create", "--account", "test")
    return await call(settings, "import", "--account", "test", *arguments)


async def call(settings: Settings, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "app", *words]
    return await anyio.run_process(command, cwd=ROOT, env=settings.child_environment(), check=False)


async def the_only_chat(database: Database, account: str, user: str) -> tuple[Owner, chats.Chat]:
    owner = await find_owner(database, account, user)
    assert owner is not None
    (chat,), total = await chats.chats(database, owner, Wanted(), page=1, size=10)
    assert total == 1
    return owner, chat


async def test_an_export_is_brought_found_and_not_brought_twice(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "WhatsApp Chat with Bob.txt"
    file.write_text(CHAT)
    done = await run(settings, str(file), "--user", "ada", "--me", "Ada")
    assert done.returncode == 0, done.stderr
    said = "WhatsApp Chat with Bob.txt: completed: 1 conversation, 1 new memory"
    assert done.stdout.decode().strip() == said
    account = await database.fetchval("SELECT id FROM accounts WHERE name = 'test'")
    owner, chat = await the_only_chat(database, account, "ada")
    assert (chat.platform, chat.display_name, chat.messages) == ("whatsapp", "WhatsApp", 2)
    results = (await HistorySearch(database, Search(database, None)).search(owner, "bicycle", limit=5)).results
    assert (results[0].sender, results[0].text) == ("Ada", "I moved to Porto last week\nand bought a bicycle.")
    rows = await database.fetch("SELECT role, metadata FROM turns ORDER BY position")
    assert [(row["role"], json.loads(row["metadata"])) for row in rows] == [
        ("user", {"name": "Ada"}),
        ("user", {"name": "Bob", "mine": False}),
    ]
    before = await database.fetch("SELECT id, key FROM turns ORDER BY id")
    file.write_text(CHAT + "31/12/2023, 22:17 - Ada: The one by the river.\n")
    again = await run(settings, str(file), "--user", "ada", "--me", "Ada", "--platform", "whatsapp")
    assert again.returncode == 0, again.stderr
    after = await database.fetch("SELECT id, key FROM turns ORDER BY id")
    assert after[:2] == before
    assert len(after) == 3


async def test_documents_and_archives_are_told_by_their_bytes(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    (note := tmp_path / "note.md").write_text("# Umbrella\n\nBring the red one.")
    (zipped := tmp_path / "me.zip").write_bytes(archive("linkedin"))
    (empty := tmp_path / "empty.pdf").write_bytes(b"%PDF-1.4\nnothing")
    done = await run(settings, str(note), str(zipped), str(empty))
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "note.md: completed: 1 chunk, 1 new memory"
    assert lines[1].startswith("me.zip: completed: ")
    assert lines[2] == "empty.pdf: failed: 0 chunks, 0 new memories"
    assert b"DAMAGED: empty.pdf: " in done.stderr
    assert done.returncode == 1
    rows = await database.fetch("SELECT type, platform, status FROM integrations ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("file", "md", "completed"),
        ("social", "linkedin", "completed"),
        ("file", "pdf", "failed"),
    ]


async def test_a_file_that_cannot_be_read_keeps_no_other_from_being_brought(settings: Settings, tmp_path: Path) -> None:
    (empty := tmp_path / "empty.txt").write_text("")
    (picture := tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (note := tmp_path / "note.md").write_text("# Umbrella\n\nBring the red one.")
    done = await run(settings, str(empty), str(picture), str(note))
    assert done.stdout.decode().splitlines() == ["note.md: completed: 1 chunk, 1 new memory"]
    assert b"reprise: empty.txt: the file is empty" in done.stderr
    assert b"reprise: cat.png: " in done.stderr
    assert done.returncode == 1


async def test_a_chat_between_people_that_taught_nothing_says_how_to_name_oneself(
    settings: Settings, tmp_path: Path
) -> None:
    (file := tmp_path / "WhatsApp Chat with Bob.txt").write_text(CHAT)
    done = await run(settings, str(file))
    assert done.stdout.decode().strip().endswith("completed: 1 conversation, 0 new memories")
    assert b"--me NAME" in done.stderr
    assert b"--me NAME" not in (await run(settings, str(file), "--me", "Ada")).stderr


async def test_what_cannot_be_read_is_said_in_one_line(settings: Settings, database: Database, tmp_path: Path) -> None:
    (file := tmp_path / "notes.xyz").write_text("nothing of the kind")
    done = await run(settings, str(file))
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].startswith("reprise: notes.xyz: ")
    assert b"Traceback" not in done.stderr
    (file := tmp_path / "conversations.json").write_text(json.dumps([{"id": "a", "mapping": {}}, "no conversation"]))
    done = await run(settings, str(file), "--platform", "chatgpt", "--account", "nobody")
    assert done.returncode == 1
    assert b"there is no account named nobody" in done.stderr
