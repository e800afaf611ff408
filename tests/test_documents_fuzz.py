"""Whatever the bytes, a document or `Unreadable` comes out; whatever the pieces, their chunks are whole and bounded."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from app.integrations.documents.cut import JOINT, cut
from app.integrations.documents.read import read_document
from app.integrations.documents.text import tidy
from app.integrations.documents.types import Document, Piece
from app.integrations.types import Unreadable
from tests.documents_rig import docx, docx_of, encrypted_pdf, pdf

NAMES = ["a.pdf", "a.docx", "a.txt", "a.md", "a.html", "a", "a.png", ""]
CODES = {"ENCRYPTED", "EMPTY", "DAMAGED", "MISLABELLED", "TOO_LARGE", "UNSUPPORTED"}
TAGS = ["<p>", "</p>", "<h1>", "</h1>", "<script>", "</script>", "<![", "]]>", "<!--", "-->", "<!", "</", "<table>"]
MARKS = [
    "<",
    ">",
    "&amp;",
    "&#x110000;",
    "&#0;",
    "# ",
    "\n",
    "\n\n",
    "```\n",
    "---\n",
    "- ",
    "> ",
    "[a]: b",
    "\r",
    "|",
    "<td>",
    "<pre>",
]
MARKUP = st.lists(
    st.sampled_from([*TAGS, *MARKS, "<tr>", "<title>", "<svg>", "<li>", "x", " ", "\t", "=", '"', "é"]), max_size=60
).map("".join)


@cache
def samples() -> dict[str, list[bytes]]:
    plain = pdf("First page.\nIts second line.", "Second page.", title="T")
    return {
        "a.pdf": [plain, encrypted_pdf(plain, user=""), encrypted_pdf(plain, user="x", algorithm="RC4-128")],
        "a.docx": [docx(), docx_of("<w:tbl><w:tr><w:tc><w:p><w:r><w:t>x</w:t></w:r></w:p></w:tc></w:tr></w:tbl>")],
    }


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A sample with bytes changed, cut out, doubled or put in, and perhaps cut short."""
    name = draw(st.sampled_from(["a.pdf", "a.docx"]))
    data = bytearray(draw(st.sampled_from(samples()[name])))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data) - 1)) if data else 0
        match draw(st.integers(0, 4)):
            case 0 if data:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at : at + draw(st.integers(1, 200))]
            case 2:
                data[at:at] = data[at : at + draw(st.integers(1, 200))]
            case 3:
                data[at:at] = draw(st.sampled_from([b"9999999999", b"-1", b"/", b"<<", b"[", b"(", b"\0", b"1 0 R"]))
            case _:
                del data[max(at, 1) :]
    return name, bytes(data)


def read(name: str, data: bytes) -> Document | None:
    try:
        document = read_document(name, data)
    except Unreadable as failure:
        assert failure.code in CODES
        assert failure.message
        return None
    assert document.pieces
    assert document.title
    assert all(piece.text == tidy(piece.text) != "" for piece in document.pieces)
    return document


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_a_mutated_document_is_read_or_refused(case: tuple[str, bytes]) -> None:
    read(*case)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(NAMES), st.binary(max_size=300))
def test_any_bytes_under_any_name_are_read_or_refused(name: str, data: bytes) -> None:
    read(name, data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["a.md", "a.html", "a.txt"]), MARKUP)
def test_any_markup_is_read_or_refused(name: str, source: str) -> None:
    read(name, source.encode())


PARTS = ["tbl", "tr", "tc", "p", "r", "t", "del", "ins", "sdt", "pPr", "numPr", "tab", "br", "txbxContent", "Fallback"]
BODY = st.recursive(
    st.sampled_from(["", "text", " ", "&amp;", "&#xFFFE;", '<w:pStyle w:val="Heading1"/>', "<w:br/>", "<w:pStyle/>"]),
    lambda inner: st.builds(
        lambda part, within: f"<w:{part}>{''.join(within)}</w:{part}>",
        st.sampled_from(PARTS),
        st.lists(inner, max_size=4),
    ),
)


@settings(max_examples=300, deadline=None)
@given(BODY, st.booleans())
def test_any_order_of_a_documents_parts_is_read_or_refused(body: str, cut_short: bool) -> None:
    read("a.docx", docx_of(body[: len(body) // 2] if cut_short else body))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_a_text_comes_back_as_it_was(said: str, encoding: str) -> None:
    document = read("a.txt", tidy(said).encode(encoding))
    assert [piece.text for piece in document.pieces] == [tidy(said)] if document else not tidy(said)


PIECES = st.lists(
    st.builds(
        Piece,
        st.one_of(st.text(max_size=120), st.text(alphabet="ab. \n!。", max_size=200)),
        st.one_of(st.none(), st.integers(1, 3)),
        st.one_of(st.none(), st.just("H")),
    ),
    max_size=8,
)


@settings(max_examples=500, deadline=None)
@given(PIECES, st.integers(1, 80), st.data())
def test_chunks_without_their_overlaps_are_the_text(pieces: list[Piece], size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    chunks = cut(pieces, size, overlap)
    runs: list[tuple[int | None, list[str]]] = []
    for piece in pieces:
        if not runs or runs[-1][0] != piece.page:
            runs.append((piece.page, []))
        runs[-1][1].append(piece.text)
    said = [(page, JOINT.join(texts)) for page, texts in runs]
    at = iter(chunks)
    for page, text in said:
        whole = ""
        while whole != text:
            chunk = next(at)
            assert chunk.page == page
            whole += chunk.text[chunk.overlap :]
            assert text.startswith(whole)
    assert next(at, None) is None
    assert all(len(chunk.text) <= size and chunk.overlap <= overlap for chunk in chunks)
    assert [chunk.position for chunk in chunks] == list(range(len(chunks)))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab. \n!", min_size=200, max_size=600), st.integers(1, 19))
def test_an_overlap_repeats_what_stood_before(text: str, overlap: int) -> None:
    said = ""
    for chunk in cut([Piece(text)], 20, overlap):
        assert said.endswith(chunk.text[: chunk.overlap])
        said += chunk.text[chunk.overlap :]
