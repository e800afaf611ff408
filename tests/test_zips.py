"""Zips from strangers: bounded by what their directory says and by what comes out, whoever reads them."""

from __future__ import annotations

import struct
import zipfile

import pytest

from app.integrations import zips
from app.integrations.types import Unreadable
from app.integrations.zips import Archive
from tests.documents_rig import zipped


def refusal(archive: Archive, name: str) -> str:
    with pytest.raises(Unreadable) as caught:
        archive.read(name)
    return caught.value.code


def saying(data: bytes, size: int) -> bytes:
    """The zip, whose one entry says that it unpacks to ``size`` bytes."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, changed.index(b"PK\x01\x02") + 24, size)
    struct.pack_into("<I", changed, changed.index(b"PK\x03\x04") + 22, size)
    return bytes(changed)


def test_files_are_read_by_their_paths_without_what_the_system_put_beside_them() -> None:
    entries = {"./a\\b.txt": "1", "__MACOSX/a.txt": "2", "c/._d": "3", "e/": "", "f.txt": "4"}
    archive = Archive(zipped(dict(entries)))
    assert archive.names == ["a/b.txt", "f.txt"]
    assert archive.read("a/b.txt") == b"1"
    assert "f.txt" in archive
    assert "e/" not in archive


def test_a_zip_that_says_it_is_small_gives_no_more_than_it_says() -> None:
    archive = Archive(saying(zipped({"a": b" " * 20_000_000}), 1_000))
    assert refusal(archive, "a") == "DAMAGED"


@pytest.mark.parametrize(("bound", "value"), [("MAX_UNPACKED_BYTES", 3_000), ("RATIO_FREE_BYTES", 3_000)])
def test_what_comes_out_is_counted_over_all_files_each_once(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    archive = Archive(zipped(dict.fromkeys("abcd", b"x" * 1000)))
    monkeypatch.setattr(zips, bound, value)
    monkeypatch.setattr(zips, "MAX_RATIO", 1)
    monkeypatch.setattr(archive, "_packed", 0)
    for name in "abcabc":
        assert len(archive.read(name)) == 1_000
    assert refusal(archive, "d") == "TOO_LARGE"


@pytest.mark.parametrize("bounds", [{}, {"MAX_UNPACKED_BYTES": 1 << 20}, {"MAX_ENTRY_BYTES": 1 << 20}])
def test_what_says_that_it_is_too_much_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch, bounds: dict[str, int]
) -> None:
    archive = Archive(zipped({"a": b" " * 20_000_000, "b": b"x"}))
    for name, value in bounds.items():
        monkeypatch.setattr(zips, name, value)
    monkeypatch.setattr(archive._zip, "open", None)
    assert refusal(archive, "a") == "TOO_LARGE"


def test_too_many_entries_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_ENTRIES", 1)
    with pytest.raises(Unreadable, match="entries") as caught:
        Archive(zipped({"a": b"", "b": b""}))
    assert caught.value.code == "TOO_LARGE"


def test_what_is_not_read_may_be_as_large_as_it_likes() -> None:
    assert Archive(zipped({"picture.raw": b" " * 20_000_000, "b": b"x"})).read("b") == b"x"


def test_a_method_that_is_not_read_and_a_zip_within_are_told() -> None:
    assert refusal(Archive(zipped({"a": "x"}, method=zipfile.ZIP_BZIP2)), "a") == "UNSUPPORTED"
    assert Archive(zipped({"b.ZIP": zipped({})})).lacks("X", "").code == "NESTED_ZIP"
    assert Archive(zipped({"b.txt": ""})).lacks("X", "").code == "X"
