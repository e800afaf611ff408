"""The root key: the one key that a fresh installation has, of the account ``default``, with every scope.

Where it comes from, the first that applies:

1. the setting ``root_key``; one that differs from the stored root key replaces it;
2. the file ``<data_dir>/root-key``, when it holds the stored key, or when the database has none (it was emptied);
3. the database has a root key whose text is not here (it was made on another machine): nothing to do;
4. a new one.

One advisory lock lets any number of processes do this at once. The file is written before the commit: a process
killed between the two leaves a file that the next one adopts.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import asyncpg

from app import ids
from app.accounts.keyring import ALL_SCOPES
from app.accounts.service import KEY_PREFIX, MAX_KEY, SHOWN, hash_of, new_key
from app.database import Database
from app.errors import StartFailed
from app.settings import Settings

DEFAULT_ACCOUNT = "default"
LOCK = 7_310_579_228_138
SHORTEST = 16


async def ensure_root_key(database: Database, settings: Settings) -> str | None:
    """The root key's text, or None when only its hash is known here (case 3).

    Raises StartFailed for a preset that is no key or a file that cannot be read or written, Unavailable.
    """
    preset = _checked(settings.root_key)
    path = Path(settings.data_dir) / "root-key" if settings.data_dir else None
    async with database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        stored = await connection.fetchval("SELECT hash FROM api_keys WHERE root AND revoked_at IS NULL")
        filed = _read(path)
        if preset:
            text = preset
        elif filed and (stored is None or stored == hash_of(filed)):
            text = filed
        elif stored is not None:
            return None
        else:
            text = new_key()
        if path is not None and text != filed:
            _write(path, text)
        if stored != hash_of(text):
            await _store(connection, text)
    return text


async def _store(connection: asyncpg.Connection, text: str) -> None:
    account = await connection.fetchval(
        """INSERT INTO accounts (id, name) VALUES ($1, $2)
        ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id""",
        ids.new_id("acc"),
        DEFAULT_ACCOUNT,
    )
    await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE root AND revoked_at IS NULL")
    await connection.execute(
        """INSERT INTO api_keys (id, account, name, hash, prefix, scopes, root)
        VALUES ($1, $2, 'root', $3, $4, $5, true)
        ON CONFLICT (hash) DO UPDATE SET root = true, account = excluded.account, scopes = excluded.scopes,
            user_id = NULL, revoked_at = NULL, expires_at = NULL""",
        ids.new_id("key"),
        account,
        hash_of(text),
        # a preset may be short, and what is shown of a key must not be most of it
        text[:SHOWN] if text.startswith(KEY_PREFIX) else text[:4],
        list(ALL_SCOPES),
    )


def _checked(preset: str) -> str:
    if preset and not (
        SHORTEST <= len(preset) <= MAX_KEY and preset.isascii() and preset.isprintable() and " " not in preset
    ):
        raise StartFailed(
            f"setting root_key (REPRISE_ROOT_KEY) must be {SHORTEST} to {MAX_KEY} printable characters without spaces"
        )
    return preset


def _read(path: Path | None) -> str:
    if path is None or not path.exists():
        return ""
    try:
        return _checked(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise StartFailed(f"the root key in {path} cannot be read: {error}") from None


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".root-key.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise StartFailed(f"the root key cannot be written to {path}: {error.strerror}") from None
