"""Every setting: its name, default, bound and meaning. The only module that reads the environment.

A setting ``max_running`` is given as the environment variable ``REPRISE_MAX_RUNNING`` or as ``max_running`` in the
TOML file that ``REPRISE_CONFIG`` names; the environment wins over the file, command-line options win over both.
README's table and the example file are made from this module by `settings_reference`, and a test says if they are not.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import getproxies

import msgspec
from msgspec import Meta

from app.errors import StartFailed

# numpy reads this once, when it is imported: spreading the embedding model's small matrices over cores costs ten times
# what it gains, and takes them from the streams.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # noqa: TID251

Positive = Meta(ge=1)
OTHERS = {"REPRISE_CONFIG", "REPRISE_PULSE_FD"}
"""Variables of ours that are no settings."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked. Durations end in their unit: ``_s`` seconds, ``_ms`` milliseconds."""

    redis_url: Annotated[
        str,
        Meta(
            description="Redis or Valkey to use; empty starts the embedded one. "
            "redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://"
        ),
    ] = ""
    database_url: Annotated[str, Meta(description="PostgreSQL to use; empty starts the embedded one")] = ""
    data_dir: Annotated[
        str,
        Meta(
            description="where the embedded engines keep their data; empty means the "
            "platform's user data directory, /var/lib/reprise as root"
        ),
    ] = ""
    root_key: Annotated[str, Meta(description="presets the root key instead of generating one")] = ""
    host: Annotated[str, Meta(description="address the web process listens on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port the web process listens on")] = 8000
    web: Annotated[int, Meta(ge=1, le=64, description="web processes")] = 1
    workers: Annotated[int, Meta(ge=1, le=64, description="generate processes")] = 1
    models_file: Annotated[str, Meta(description="TOML file of model aliases")] = ""
    model: Annotated[str, Meta(description="model behind the alias `default` where no file names one")] = ""
    model_api_base: Annotated[str, Meta(description="address of that model's API")] = ""
    model_api_key: Annotated[str, Meta(description="key of that model's API")] = ""
    embedding_model: Annotated[
        str,
        Meta(description="what embeds: empty the bundled MiniLM, `none` nothing, else a model name of litellm's"),
    ] = ""
    embedding_api_base: Annotated[str, Meta(description="address of the embedding model's API")] = ""
    embedding_api_key: Annotated[str, Meta(description="key of the embedding model's API")] = ""
    redis_prefix: Annotated[str, Meta(min_length=1, max_length=64, description="prefix of every Redis key")] = "rp"
    database_schema: Annotated[
        str, Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}$", description="PostgreSQL schema of every table")
    ] = "reprise"
    partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="Redis partitions; fixed at first start (64 is a good number on a cluster)",
        ),
    ] = 1
    wait_replicas: Annotated[
        int,
        Meta(
            ge=0,
            le=5,
            description="replicas that must confirm a change of state (WAIT) before it is answered",
        ),
    ] = 0
    wait_ms: Annotated[int, Positive, Meta(description="longest such wait")] = 100
    max_running: Annotated[
        int, Positive, Meta(description="messages an account may have generating at once; the rest queue")
    ] = 100
    max_queued: Annotated[int, Positive, Meta(description="messages an account may have waiting; beyond it 429")] = 1000
    worker_slots: Annotated[int, Meta(ge=1, le=1000, description="messages one generate process runs at once")] = 100
    drain_s: Annotated[
        float,
        Meta(
            ge=0,
            description="how long a stopping worker lets running messages go on before handing them back",
        ),
    ] = 4.0
    deadline_s: Annotated[int, Positive, Meta(description="default time from initiate to the end of a message")] = 900
    max_deadline_s: Annotated[int, Positive, Meta(description="largest deadline_seconds a request may ask for")] = (
        86_400
    )
    idle_s: Annotated[int, Positive, Meta(description="default longest silence of the model between two tokens")] = 120
    retention_s: Annotated[int, Positive, Meta(description="default time a finished message stays readable")] = 86_400
    max_retention_s: Annotated[int, Positive, Meta(description="largest retention_seconds a request may ask for")] = (
        2_592_000
    )
    max_output_tokens: Annotated[
        int, Positive, Meta(description="default and ceiling of max_tokens where the model names none")
    ] = 16_384
    max_output_bytes: Annotated[int, Positive, Meta(description="longest answer, in bytes of text")] = 2_000_000
    max_output_events: Annotated[int, Meta(ge=10, le=900_000, description="most events an attempt may have")] = 200_000
    max_attempts: Annotated[int, Meta(ge=1, le=100, description="attempts a message gets when workers die")] = 3
    memory_model: Annotated[
        str, Meta(description="model that draws memories from conversations; empty means rules, without a model")
    ] = ""
    memory_debounce_s: Annotated[
        float, Meta(ge=0, description="pause of a conversation after which that model reads its new turns")
    ] = 20.0
    max_body_bytes: Annotated[int, Positive, Meta(description="largest JSON body")] = 8_000_000
    max_ingest_bytes: Annotated[int, Positive, Meta(description="largest body of a brought conversation")] = 52_428_800
    linkedin_api_base: Annotated[str, Meta(description="address of LinkedIn's API")] = "https://api.linkedin.com"
    twitter_api_base: Annotated[str, Meta(description="address of X's API")] = "https://api.x.com"
    reddit_api_base: Annotated[str, Meta(description="address of Reddit's API")] = "https://oauth.reddit.com"
    allow_private_addresses: Annotated[
        bool, Meta(description="whether addresses that callers name may lead to this machine and its private networks")
    ] = False
    rate_requests: Annotated[
        str,
        Meta(description="requests of a user on the memory, profile, history and key routes; empty means no limit"),
    ] = "100/minute"
    rate_search: Annotated[str, Meta(description="how many of these may be searches")] = "50/minute"
    rate_integrations: Annotated[str, Meta(description="integrations that a user may begin")] = "10/minute"
    rate_messages: Annotated[str, Meta(description="messages that a user may initiate")] = "600/minute"
    max_streams: Annotated[
        int, Positive, Meta(description="streams an API key may have open on each web process; the root key any number")
    ] = 1_000
    ping_s: Annotated[float, Meta(gt=0, description="silence after which an open stream gets a comment")] = 15.0
    send_timeout_s: Annotated[float, Meta(gt=0, description="how long one write to a client may take")] = 30.0
    cors_origins: Annotated[list[str], Meta(description="origins that browsers may call from, `*` for all")] = []
    log_format: Annotated[
        str,
        Meta(
            pattern="^(auto|json|console)$",
            description="log lines as JSON or for people; auto asks the terminal",
        ),
    ] = "auto"
    log_level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$", description="least level logged")] = "info"

    def child_environment(self) -> dict[str, str]:
        """The process environment with these settings in it: what the supervisor gives its children."""
        env = dict(os.environ)  # noqa: TID251 - this module's job
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            text = ",".join(value) if isinstance(value, list) else str(value)
            env[f"REPRISE_{field.name.upper()}"] = text
        return env


def load(overrides: dict[str, Any] | None = None) -> Settings:
    """Settings from defaults, the file, the environment and ``overrides`` (None values are no override).

    Raises StartFailed naming the first setting that is unknown or out of bounds.
    """
    values: dict[str, Any] = {}
    fields = {f.name: f for f in msgspec.structs.fields(Settings)}
    path = os.environ.get("REPRISE_CONFIG", "")  # noqa: TID251
    if path:
        values |= _from_file(Path(path), set(fields))
    for name in fields:
        raw = os.environ.get(f"REPRISE_{name.upper()}")  # noqa: TID251
        if raw is not None and raw != "":
            values[name] = raw.split(",") if name == "cors_origins" else raw
    values |= {k: v for k, v in (overrides or {}).items() if v is not None}
    for name, value in values.items():
        try:
            values[name] = msgspec.convert(value, fields[name].type, strict=False)
        except msgspec.ValidationError as error:
            raise StartFailed(f"setting {name} (REPRISE_{name.upper()}): {error}") from None
    return Settings(**values)


def place_of(url: str, port: int) -> str:
    """Where an engine's address leads, as ``host:port`` or the path of a socket; never the user or password.

    ``port`` is the engine's usual one. Empty for an address that names no place.
    """
    with suppress(ValueError):
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        if parts.scheme == "unix":
            return unquote(parts.path)
        if "@" in parts.path + parts.query + parts.fragment:
            return ""  # a password that was not escaped: who knows which part is which
        places = []
        for host in (parts.netloc.rpartition("@")[2] or query.get("host", [""])[0]).split(","):
            one = urlsplit(f"//{host}")
            places.append(unquote(host) if unquote(host)[:1] in ("", "/") else f"{one.hostname}:{one.port or port}")
        return ",".join(places)
    return ""


def misspelt() -> list[str]:
    """The variables of the environment that look like settings and are none, sorted."""
    known = {f"REPRISE_{f.name.upper()}" for f in msgspec.structs.fields(Settings)} | OTHERS
    return sorted(name for name in os.environ if name.startswith("REPRISE_") and name not in known)  # noqa: TID251


def environment(name: str) -> str | None:
    """One variable by its own name, for `api_key_env` in the models file."""
    return os.environ.get(name)  # noqa: TID251


def proxy_named() -> bool:
    """Whether the environment (or the system) sends outgoing HTTP through a proxy, as httpx finds it."""
    return not {"http", "https", "all"}.isdisjoint(getproxies())


def _from_file(path: Path, known: set[str]) -> dict[str, Any]:
    try:
        table = msgspec.toml.decode(path.read_bytes())
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartFailed(f"the settings file {path} cannot be read: {reason}") from None
    unknown = sorted(set(table) - known)
    if unknown:
        raise StartFailed(f"the settings file {path} names an unknown setting: {unknown[0]}")
    return dict(table)
