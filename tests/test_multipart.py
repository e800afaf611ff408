"""Forms with files: whatever the pieces they come in, and whatever is wrong with them."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, PayloadTooLarge, RepriseError, ValidationFailed
from app.web.multipart import MOST_FIELD_BYTES, MOST_FILES, Form, read_form
from app.web.parse import Body

NAMES = frozenset({"file", "files"})


class Kept:
    """Files in memory."""

    def __init__(self) -> None:
        self.files: list[tuple[str, bytearray]] = []
        self.largest = 0

    async def file(self, name: str) -> None:
        self.files.append((name, bytearray()))

    async def write(self, data: bytes) -> None:
        self.largest = max(self.largest, len(data))
        self.files[-1][1].extend(data)

    @property
    def whole(self) -> list[tuple[str, bytes]]:
        return [(name, bytes(data)) for name, data in self.files]


async def read(kind: str, raw: bytes, piece: int = 65_536, limit: int = 10_000_000) -> tuple[Form, Kept]:
    """The form in ``raw``, come in pieces of so many bytes."""
    pieces = [raw[i : i + piece] for i in range(0, len(raw), piece)] or [b""]

    async def receive() -> Any:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    kept = Kept()
    body = Body({"headers": []}, receive, limit)  # type: ignore[typeddict-item]
    return await read_form(body, kind.encode(), kept, NAMES), kept


def form(files: list[tuple[str, tuple[str, bytes]]], fields: dict[str, str] | None = None) -> tuple[str, bytes]:
    """A form as httpx sends it: its content type and body."""
    request = httpx.Request("POST", "http://x", files=files, data=fields)
    return request.headers["content-type"], request.read()


def plain(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end


def field(name: bytes, value: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (name, value)


B = "multipart/form-data; boundary=b"
FILE = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello'


async def test_fields_and_files_come_apart() -> None:
    kind, raw = form(
        [("file", ("ä b.txt", b"one\r\n--x")), ("files", ("c.pdf", b"\x00" * 5))], {"me": "Ada", "zone": ""}
    )
    got, kept = await read(kind, raw)
    assert got.fields == {"me": "Ada", "zone": ""}
    assert kept.whole == [("ä b.txt", b"one\r\n--x"), ("c.pdf", b"\x00" * 5)]
    assert [(one.name, one.size) for one in got.files] == [("ä b.txt", 8), ("c.pdf", 5)]
    assert got.files[0].digest == hashlib.sha256(b"one\r\n--x").hexdigest()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.text("abc ü", min_size=1, max_size=5), st.binary(max_size=200)), max_size=3),
    st.integers(min_value=1, max_value=70),
)
async def test_no_piece_changes_what_comes_out(files: list[tuple[str, bytes]], piece: int) -> None:
    kind, raw = form([("file", one) for one in files] or [("files", ("z", b""))], {"a": "1"})
    got, kept = await read(kind, raw, piece)
    assert kept.whole == (files or [("z", b"")])
    assert got.fields == {"a": "1"}


@settings(deadline=None, max_examples=200)
@given(st.data())
async def test_junk_is_refused_or_read_and_nothing_else(data: st.DataObject) -> None:
    raw = bytearray(plain(FILE, field(b"a", b"1"), FILE))
    for _ in range(data.draw(st.integers(min_value=1, max_value=6))):
        at = data.draw(st.integers(min_value=0, max_value=len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"\r\n", b"--b", b"--b--", b'"', b";"]))
        )
    try:
        await read(B, bytes(raw), data.draw(st.integers(1, 99)))
    except RepriseError as error:
        assert error.status in (400, 422)


async def test_a_large_file_is_handed_on_in_pieces() -> None:
    kind, raw = form([("file", ("a", b"x" * 3_000_000))])
    got, kept = await read(kind, raw)
    assert got.files[0].size == 3_000_000
    assert kept.largest <= 70_000


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("multipart/form-data", plain(FILE)),
        ("multipart/form-data; boundary=", plain(FILE)),
        ("multipart/form-data; boundary=" + "b" * 71, plain(FILE)),
        (B, b""),
        (B, b"nonsense"),
        (B, plain(FILE, end=b"")),
        (B, plain(FILE, end=b"--b")),
        (B, plain(b"hello")),
        (B, plain(b"Content-Type: text/plain\r\n\r\nhello")),
        (B, plain(b"Content-Disposition: attachment; name=a\r\n\r\nhello")),
        (B, plain(b"Content-Disposition: form-data; name=\xff\r\n\r\nhello")),
        (B, plain(b"X-Long: " + b"x" * 5_000 + b"\r\n" + FILE)),
        (B, plain(*[b"X-Many: 1\r\n" * 20 + FILE])),
        (B, plain(*[field(b"f%d" % n, b"") for n in range(201)])),
    ],
)
async def test_what_is_no_form_is_a_bad_request(kind: str, raw: bytes) -> None:
    for piece in (7, 65_536):
        with pytest.raises(BadRequest) as refused:
            await read(kind, raw, piece)
        assert "Error(" not in refused.value.message


@pytest.mark.parametrize(
    ("raw", "wrong"),
    [
        (plain(field(b"file", b"hello")), ["file"]),
        (plain(field(b"a", b"1"), field(b"a", b"2")), ["a"]),
        (plain(field(b"a", b"\xff")), ["a"]),
        (plain(field(b"a", b"x" * (MOST_FIELD_BYTES + 1)), field(b"b", b"\xff")), ["a", "b"]),
        (plain(FILE.replace(b'"file"', b'"photo"'), field(b"file", b"")), ["photo", "file"]),
        (plain(*[FILE] * (MOST_FILES + 2)), ["file", "file"]),
    ],
)
async def test_every_wrong_part_is_named(raw: bytes, wrong: list[str]) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await read(B, raw)
    assert [one["field"] for one in refused.value.details["errors"]] == wrong


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b'filename="C:\\\\docs\\\\a.txt"', "a.txt"),
        (b'filename="a%22b.txt"', 'a"b.txt'),
        (b"filename=a.txt", "a.txt"),
        (b"filename*=utf-8''%e2%82%ac%20rates.pdf", "€ rates.pdf"),
        (b"filename*=ISO-8859-1'en'%A3.pdf", "£.pdf"),
        (b'filename="%b.txt"' % (b"x" * 300), "x" * 251 + ".txt"),
    ],
)
async def test_the_names_that_clients_write(header: bytes, name: str) -> None:
    _, kept = await read(B, plain(b'Content-Disposition: form-data; name="file"; %b\r\n\r\nhello' % header))
    assert kept.whole == [(name, b"hello")]


async def test_an_empty_file_input_is_no_file() -> None:
    empty = (
        b'Content-Disposition: form-data; name="file"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n'
    )
    got, kept = await read(B, plain(empty))
    assert (got.files, kept.whole) == ([], [])
    _, kept = await read(B, plain(empty + b"but full"))
    assert kept.whole == [("", b"but full")]


async def test_the_limit_holds_while_it_comes() -> None:
    kind, raw = form([("file", ("a", b"x" * 200_000))])
    with pytest.raises(PayloadTooLarge):
        await read(kind, raw, limit=100_000)


async def test_what_follows_the_end_is_left_alone() -> None:
    got, _ = await read(B, b"before\r\n" + plain(FILE) + b"after" * 50_000, 100)
    assert [one.name for one in got.files] == ["a.txt"]
