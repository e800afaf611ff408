"""One social archive, whatever the platform. Pure: bytes in, items and problems out."""

from __future__ import annotations

from app.integrations.social import linkedin, reddit, twitter
from app.integrations.social.types import Items
from app.integrations.types import Unreadable
from app.integrations.zips import Archive, is_zip

PLATFORMS = ("linkedin", "twitter", "reddit")
_READERS = {"linkedin": linkedin.read, "twitter": twitter.read, "x": twitter.read, "reddit": reddit.read}
CALLED = {"linkedin": "LinkedIn", "twitter": "X", "x": "X", "reddit": "Reddit"}
_TELLING = 2  # of a platform's files: single names such as comments.csv are everybody's


def read_archive(platform: str, data: bytes) -> Items:
    """The items of ``platform``'s (linkedin, twitter or x, reddit) archive in the order of its files.

    Raises `Unreadable` at once: UNSUPPORTED, EMPTY, MISLABELLED, NESTED_ZIP, ENCRYPTED, DAMAGED or TOO_LARGE.
    """
    if platform not in _READERS:
        raise Unreadable("UNSUPPORTED", "Only archives of LinkedIn, X and Reddit are read.")
    if not data:
        raise Unreadable("EMPTY", "The file is empty.")
    if not is_zip(data):
        raise Unreadable("MISLABELLED", f"The file is not a zip archive. Send the archive {CALLED[platform]} gave you.")
    archive = Archive(data)
    if archive.encrypted:
        raise Unreadable("ENCRYPTED", "The archive is protected by a password. Send it without one.")
    marks = _marks(archive)
    likely = max(marks, key=lambda called: marks[called])
    if not marks[CALLED[platform]] or marks[CALLED[platform]] < marks[likely]:
        hint = f" It looks like one of {likely}." if marks[likely] >= _TELLING else ""
        message = f"By its files the archive is not {CALLED[platform]}'s.{hint}"
        raise Unreadable("MISLABELLED", message) if marks[likely] else archive.lacks("MISLABELLED", message)
    return _READERS[platform](archive)


def detect(data: bytes) -> str | None:
    """The platform an archive looks like; None when like none."""
    if not is_zip(data):
        return None
    try:
        marks = _marks(Archive(data))
    except Unreadable:
        return None
    likely = max(marks, key=lambda called: marks[called])
    return {"LinkedIn": "linkedin", "X": "twitter", "Reddit": "reddit"}[likely] if marks[likely] >= _TELLING else None


def _marks(archive: Archive) -> dict[str, int]:
    """How many files each platform would know."""
    names = [name.rpartition("/")[2].lower() for name in archive.names]
    return {
        "LinkedIn": sum(name in linkedin.FILES for name in names),
        "X": sum(bool(twitter.FILES.fullmatch(name)) for name in names),
        "Reddit": sum(name in reddit.FILES for name in names),
    }
