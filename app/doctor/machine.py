"""This host and the settings: Python, files, limits, the port."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import sys
from pathlib import Path

from app.doctor.finding import Finding
from app.engines.home import data_directory, lock_owner
from app.errors import StartFailed
from app.settings import Settings, misspelt
from app.supervise import free_port

LOW_DISK_BYTES = 1_000_000_000
FEW_FILES = 4_096
PROXIES_WAIT_S = 60
"""Proxies cut a connection after so long a silence, unless they are told otherwise."""


def settings(given: Settings) -> list[Finding]:
    """What of the settings is not understood, or does not go together."""
    found = [Finding("Settings", "warn", said, advice) for said, advice in contradictions(given)]
    if unknown := misspelt():
        said = f"no setting is called {', '.join(unknown)}"
        found.append(Finding("Settings", "warn", said, "`reprise settings` lists all settings"))
    return found or [Finding("Settings", "ok", "all understood")]


def contradictions(given: Settings) -> list[tuple[str, str]]:
    """What is set to no effect or to a bad one, and what to do about it."""
    checks = [
        (
            given.deadline_s > given.max_deadline_s,
            "deadline_s is above max_deadline_s",
            "raise max_deadline_s: no request may ask for what it would get by itself",
        ),
        (
            given.retention_s > given.max_retention_s,
            "retention_s is above max_retention_s",
            "raise max_retention_s: no request may ask for what it would get by itself",
        ),
        (
            given.wait_replicas > 0 and not given.redis_url,
            "wait_replicas is set, and the embedded Redis has no replicas",
            "set it to 0: every change of state waits for wait_ms in vain",
        ),
        (
            given.ping_s >= PROXIES_WAIT_S,
            f"ping_s is {given.ping_s:g}",
            f"set it below {PROXIES_WAIT_S}: most proxies cut streams that were silent for so long",
        ),
        (
            bool(given.model_api_base or given.model_api_key) and not given.model,
            "model_api_base or model_api_key is set without model",
            "set model, or write an alias in the models file",
        ),
        (
            bool(given.embedding_api_base or given.embedding_api_key) and not given.embedding_model,
            "embedding_api_base or embedding_api_key is set without embedding_model",
            "set embedding_model: the bundled one needs neither",
        ),
        (
            given.allow_private_addresses,
            "callers may have this machine's private networks asked",
            "unset allow_private_addresses unless you trust everybody who has a key",
        ),
    ]
    return [(said, advice) for wrong, said, advice in checks if wrong]


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "bad", version, "use Python 3.11, 3.12 or 3.13")
    return Finding("Python", "ok", version)


def data(given: Settings) -> Finding:
    """The data directory: whether it can be written, who holds it, how much room there is."""
    path = data_directory(given)
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        return Finding("Data directory", "bad", f"{path} cannot be written", "choose another with --data-dir")
    try:
        owner = lock_owner(path)
    except StartFailed as error:
        return Finding("Data directory", "bad", error.message, "run this as the user who started Reprise")
    free = shutil.disk_usage(nearest).free
    used = (
        "not there yet"
        if nearest != path
        else "not in use"
        if owner is None
        else f"held by process {owner or 'unknown'}"
    )
    found = f"{path} ({used}; {free / 1e9:.1f} GB free)"
    if free < LOW_DISK_BYTES:
        return Finding("Data directory", "warn", found, "make room: the engines stop writing when the disk is full")
    return Finding("Data directory", "ok", found)


def key_files(given: Settings) -> Finding:
    """Whether others on this machine can read the root key or the engines' passwords."""
    home = data_directory(given)
    files = [home / name for name in ("root-key", "secrets.json", "engines.json")]
    there = [file for file in files if file.exists()]
    if open_to_others := [file for file in there if _others_may_read(file)]:
        names = " ".join(map(str, open_to_others))
        return Finding("Key files", "bad", f"others can read {names}", f"chmod 600 {names}, and make a new root key")
    return Finding("Key files", "ok", "readable by their owner only" if there else "none here")


def _others_may_read(file: Path) -> bool:
    return bool(file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def open_files() -> Finding:
    """How many files, and so observers, a process started here may have: it takes the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return Finding("Open files", "ok", "no limit")
    if hard < FEW_FILES:
        return Finding("Open files", "warn", f"{hard:,} a process", "raise `ulimit -Hn`: each observer takes one")
    return Finding("Open files", "ok", f"{hard:,} a process")


def port(given: Settings) -> Finding:
    place = f"{given.host}:{given.port}"
    try:
        free_port(given.host, given.port)
    except StartFailed as error:
        if lock_owner(data_directory(given)) is not None:
            return Finding("Port", "ok", f"{place} in use, and Reprise runs")
        return Finding("Port", "bad", error.message.partition(": choose")[0], "choose another with --port")
    return Finding("Port", "ok", f"{place} is free")
