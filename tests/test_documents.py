"""Documents are read as they are, told by their content, and never beyond their bounds."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import anyio
import pytest

from app.integrations.documents.bounded import read_document_bounded
from app.integrations.documents.cut import cut
from app.integrations.documents.markdown import MAX_PARSED_CHARACTERS
from app.integrations.documents.read import MAX_DATA_BYTES, read_document
from app.integrations.documents.text import tidy
from app.integrations.documents.types import Document, Piece
from app.integrations.types import Unreadable
from tests.documents_rig import docx, docx_of, encrypted_pdf, pdf, pdf_bomb, pdf_of_streams, showing, zipped

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def refused(name: str, data: bytes) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        read_document(name, data)
    return caught.value


def texts(document: Document) -> list[tuple[str | None, str]]:
    return [(piece.heading, piece.text) for piece in document.pieces]


# PDF


def test_a_pdf_is_read_page_by_page() -> None:
    document = read_document("trip.pdf", pdf("We leave on Friday.\nFrom gate 3.", "Back on Sunday.", title="Lisbon"))
    assert (document.title, document.kind, document.problems) == ("Lisbon", "pdf", [])
    assert document.pieces == [Piece("We leave on Friday.\nFrom gate 3.", 1), Piece("Back on Sunday.", 2)]


def test_a_page_without_text_keeps_the_numbers_of_the_others() -> None:
    document = read_document("a.pdf", pdf("one", "", "three"))
    assert [(piece.page, piece.text) for piece in document.pieces] == [(1, "one"), (3, "three")]


def test_an_encrypted_pdf_says_so() -> None:
    assert refused("a.pdf", encrypted_pdf(pdf("secret"), user="pass")).code == "ENCRYPTED"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_a_pdf_that_only_forbids_printing_is_read(algorithm: str) -> None:
    locked = encrypted_pdf(pdf("readable"), user="", algorithm=algorithm)
    assert read_document("a.pdf", locked).pieces == [Piece("readable", 1)]


def test_ligatures_of_a_pdf_are_written_out() -> None:
    differences = b"<< /Type /Encoding /Differences [1 /fi /ffi] >>"
    stream = pdf_of_streams([b"BT /F1 12 Tf 72 720 Td (\\001nd the o\\002ce) Tj ET"])
    data = stream.replace(b"/BaseFont /Helvetica", b"/BaseFont /Helvetica /Encoding " + differences)
    assert read_document("a.pdf", data).pieces == [Piece("find the office", 1)]


def test_a_cut_pdf_is_damaged() -> None:
    whole = pdf("first page", "second page")
    assert {refused("a.pdf", whole[:end]).code for end in (40, len(whole) // 2, -60)} == {"DAMAGED"}


def test_a_damaged_page_is_a_problem_and_the_rest_goes_on() -> None:
    whole = pdf_of_streams([showing(["good"]), showing(["bad"])])
    broken = whole.replace(b"/Contents 6 0 R", b"/Contents 1.5.2", 1)
    document = read_document("a.pdf", broken)
    assert [piece.text for piece in document.pieces] == ["good"]
    assert [(problem.item_id, problem.code) for problem in document.problems] in ([], [("page 2", "DAMAGED")])


def test_a_page_that_unpacks_without_end_is_too_large() -> None:
    assert refused("a.pdf", pdf_bomb(200_000_000)).code == "TOO_LARGE"


def test_a_scanned_pdf_is_empty_and_says_why() -> None:
    failure = refused("scan.pdf", pdf("", ""))
    assert failure.code == "EMPTY"
    assert "Scanned" in failure.message


# DOCX


def test_a_docx_is_read_heading_by_heading() -> None:
    document = read_document("trip.docx", docx())
    assert (document.title, document.kind) == ("Trip to Lisbon", "docx")
    assert texts(document) == [
        (None, "We leave on Friday."),
        ("Hotel", "Hotel\n\nNear the river.\n\nBreakfast included\n\nNight | Price\nFriday | 90 €"),
        ("Food", "Food\n\nPastéis de nata."),
    ]


def test_a_docx_says_what_was_inserted_and_not_what_was_deleted() -> None:
    body = (
        "<w:p><w:r><w:t>kept </w:t></w:r><w:ins><w:r><w:t>added</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom></w:p>"
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>"
        "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>one</w:t><w:tab/><w:t>two</w:t></w:r></w:p>"
    )
    notes = (
        f'<w:footnotes xmlns:w="{"x"}"><w:footnote><w:p><w:r><w:t>a note</w:t></w:r></w:p></w:footnote></w:footnotes>'
    )
    document = read_document("a.docx", docx_of(body, **{"word/footnotes.xml": notes}))
    assert texts(document) == [(None, "kept added\n\nin a control\n\n- one\ttwo"), ("Notes", "a note")]


def test_a_text_box_is_said_once() -> None:
    box = "<w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p></w:txbxContent>"
    choice = (
        f'<m:AlternateContent xmlns:m="m"><m:Choice>{box}</m:Choice><m:Fallback>{box}</m:Fallback></m:AlternateContent>'
    )
    document = read_document("a.docx", docx_of(f"<w:p><w:r>{choice}<w:t>around</w:t></w:r></w:p>"))
    assert texts(document) == [(None, "boxed\n\naround")]


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY e "&a;&a;&a;">]>',
    ],
)
def test_a_docx_with_entities_is_refused(head: str) -> None:
    assert refused("a.docx", docx_of("<w:p><w:r><w:t>&e;</w:t></w:r></w:p>", head=head)).code == "DAMAGED"


def test_a_docx_that_unpacks_without_end_is_refused_before_it_is_unpacked() -> None:
    bomb = docx_of(" " * 100_000_000)
    assert len(bomb) < 200_000
    assert refused("a.docx", bomb).code == "TOO_LARGE"


def test_a_docx_of_too_many_entries_is_refused() -> None:
    assert refused("a.docx", b"PK\x03\x04" + b"PK\x01\x02" * 100_001).code == "TOO_LARGE"


def test_a_docx_with_a_password_says_so() -> None:
    assert refused("a.docx", OLE + b"\0" * 512 + "EncryptedPackage".encode("utf-16-le")).code == "ENCRYPTED"


def test_a_docx_in_an_encrypted_zip_says_so() -> None:
    data = bytearray(docx())
    entry = data.index(b"PK\x01\x02")
    while entry >= 0:  # the flag in the directory is what is read first
        data[entry + 8] |= 1
        entry = data.find(b"PK\x01\x02", entry + 4)
    assert refused("a.docx", bytes(data)).code == "ENCRYPTED"


def test_a_docx_packed_by_another_method_is_not_unpacked() -> None:
    body = f"<w:document xmlns:w='w'><w:p>{'x' * 1000}</w:p></w:document>"
    assert refused("a.docx", zipped({"word/document.xml": body}, method=zipfile.ZIP_LZMA)).code == "UNSUPPORTED"


def test_a_cut_docx_is_damaged() -> None:
    assert refused("a.docx", docx()[:-100]).code == "DAMAGED"


# Text


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"],
)
def test_text_is_read_in_its_encoding(encoding: str) -> None:
    said = "Grüße aus Köln: naïve café, fünf Äpfel"
    assert read_document("note.txt", said.encode(encoding)).pieces == [Piece(said)]


def test_a_broken_byte_does_not_turn_utf_8_into_another_encoding() -> None:
    assert read_document("a.txt", "äöü äöü".encode() + b"\xff").pieces == [Piece("äöü äöü\ufffd")]


def test_a_cut_last_character_is_dropped() -> None:
    assert read_document("a.txt", "wörld €".encode()[:-1]).pieces == [Piece("wörld")]


def test_text_is_tidied_to_what_can_be_stored() -> None:
    assert tidy("a\r\n\xadb\rc  \n\n\n\nd\x00\x07\ud800e\u2028f") == "a\nb\nc\n\nd\ufffde\nf"


def test_the_name_is_the_title_of_a_text_and_its_only_piece() -> None:
    document = read_document("C:\\notes\\My notes.TXT", b"hello")
    assert (document.title, document.kind, document.pieces) == ("My notes", "txt", [Piece("hello")])


# Markdown and HTML


def test_markdown_is_divided_at_its_headings() -> None:
    source = """---
title: "Field notes"
---
Before.

# One

- a [link](http://x.example)

```sh
# no heading
```

Two
---

<!-- unsaid --><p>said <b>aloud</b></p>

> # quoted
"""
    document = read_document("a.md", source.encode())
    assert document.title == "Field notes"
    assert texts(document) == [
        (None, '---\ntitle: "Field notes"\n---\nBefore.'),
        ("One", "One\n\n- a [link](http://x.example)\n\n```sh\n# no heading\n```"),
        ("Two", "Two\n\nsaid aloud\n\n> # quoted"),
    ]


def test_markdown_too_long_to_parse_is_one_piece() -> None:
    document = read_document("a.md", b"# head\n\n" * (MAX_PARSED_CHARACTERS // 8 + 1))
    assert [piece.heading for piece in document.pieces] == [None]


def test_html_is_read_as_it_is_seen() -> None:
    source = """<!DOCTYPE html><html><head><title>My &amp; page</title><style>p{}</style>
<script>var x = "<p>not said</p>";</script></head><body>
<p>Hello   <b>big</b>
world&nbsp;!<br>Next</p>
<!-- a comment --><svg><text>drawn</text></svg><![weird[x]]>
<h2>List <i>one</i></h2><ul><li>a<li>b</ul>
<table><tr><th>k</th><th>v</th></tr><tr><td>1</td><td>2</td></tr></table>
<pre>  x
    y</pre></body></html>"""
    document = read_document("a.html", source.encode())
    assert document.title == "My & page"
    assert texts(document) == [
        (None, "Hello big world !\nNext"),
        ("List one", "List one\n\n- a\n- b\n\nk | v\n1 | 2\n\n  x\n    y"),
    ]


def test_html_is_read_in_the_encoding_it_declares() -> None:
    source = '<meta charset="windows-1251"><p>Привет</p>'.encode("cp1251")
    assert texts(read_document("a.htm", source)) == [(None, "Привет")]


# What a file is


@pytest.mark.parametrize(
    ("name", "data", "called"),
    [
        ("a.pdf", b"\x89PNG\r\n\x1a\n....", "a PNG picture"),
        ("a.pdf", b"<html><p>hello</p></html>", "plain text or HTML"),
        ("a.docx", b"%PDF-1.4\n", "a PDF document"),
        ("a.docx", b"just text", "plain text or HTML"),
        ("a.docx", zipped({"xl/workbook.xml": "<x/>"}), "an Excel workbook"),
        ("a.docx", zipped({"readme.txt": "x"}), "a zip archive"),
        ("a.docx", OLE + bytes(600), "a document of an old Office (DOC, XLS or PPT)"),
        ("a.txt", b"%PDF-1.4\n", "a PDF document"),
        ("a.txt", docx(), "a Word document"),
        ("a.md", b"{\\rtf1 hello}", "an RTF document"),
        ("a.html", b"\xff\xd8\xff\xe0\0\0", "a JPEG picture"),
        ("a.txt", bytes(range(256)), "binary data"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(name: str, data: bytes, called: str) -> None:
    failure = refused(name, data)
    assert failure.code == "MISLABELLED"
    assert called in failure.message


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.txt", b"", "EMPTY"),
        ("a.txt", b" \r\n\t ", "EMPTY"),
        ("a.html", b"<script>1</script>", "EMPTY"),
        ("a.xlsx", b"PK\x03\x04", "UNSUPPORTED"),
        ("a", b"text without a name for it", "UNSUPPORTED"),
        ("a.pdf", b"\x01\x00\x03\x04", "DAMAGED"),
        ("a.txt", b"x" * (MAX_DATA_BYTES + 1), "TOO_LARGE"),
    ],
)
def test_what_cannot_be_read_says_why(name: str, data: bytes, code: str) -> None:
    assert refused(name, data).code == code


def test_a_file_without_a_suffix_is_told_by_its_content() -> None:
    assert read_document("upload", pdf("hello")).kind == "pdf"


# Chunks


def test_chunks_end_with_sentences_and_repeat_whole_ones() -> None:
    pieces = [Piece("One is here. Two is here. Three is here. Four is here.", 1)]
    chunks = cut(pieces, 30, 15)
    assert [chunk.text for chunk in chunks] == [
        "One is here. Two is here. ",
        "Two is here. Three is here. ",
        "Three is here. Four is here.",
    ]
    assert [chunk.overlap for chunk in chunks] == [0, 13, 15]
    assert [chunk.position for chunk in chunks] == [0, 1, 2]


def test_a_chunk_is_of_one_page_and_under_its_heading() -> None:
    chunks = cut([Piece("First.", 1), Piece("Second.", 2)])
    assert [(chunk.page, chunk.text) for chunk in chunks] == [(1, "First."), (2, "First.\n\nSecond.")]
    sections = [Piece("A\n\n" + "a" * 50, None, "A"), Piece("B\n\n" + "b" * 50, None, "B")]
    assert [chunk.heading for chunk in cut(sections, 60, 0)] == ["A", "B"]


def test_the_same_document_has_the_same_chunks() -> None:
    pieces = [Piece("again and " * 400)]
    assert [chunk.id for chunk in cut(pieces)] == [chunk.id for chunk in cut(pieces)]
    assert len({chunk.id for chunk in cut(pieces)}) == len(cut(pieces)) > 3


@pytest.mark.parametrize(("size", "overlap"), [(10, 10), (0, 0), (10, -1)])
def test_an_overlap_as_large_as_the_chunk_is_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        cut([Piece("x")], size, overlap)


# In a process of its own


async def test_a_bounded_reader_gives_what_the_reader_gives() -> None:
    data = docx()
    assert await read_document_bounded("trip.docx", data) == read_document("trip.docx", data)


async def test_a_bounded_reader_refuses_as_the_reader_does() -> None:
    with pytest.raises(Unreadable) as caught:
        await read_document_bounded("a.pdf", b"just text")
    assert (caught.value.code, "plain text" in caught.value.message) == ("MISLABELLED", True)


async def test_a_reader_that_takes_too_long_is_ended() -> None:
    with pytest.raises(Unreadable) as caught:
        await read_document_bounded("a.txt", b"x", seconds=0.001)
    assert caught.value.code == "TOO_LARGE"


async def test_a_reader_that_takes_too_much_memory_is_ended() -> None:
    with pytest.raises(Unreadable) as caught:
        await read_document_bounded("a.txt", b"x\n" * 20_000_000, memory_bytes=200 << 20)
    assert caught.value.code == "TOO_LARGE"


async def test_a_reader_that_cannot_start_does_not_take_the_worker_along() -> None:
    with pytest.raises(Unreadable):
        await read_document_bounded("a.txt", b"x" * 10_000_000, memory_bytes=1 << 20)


def children() -> list[str]:
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="children are counted in /proc")
async def test_a_cancelled_reader_leaves_no_process() -> None:
    before = children()
    with anyio.move_on_after(0.1) as scope:
        await read_document_bounded("a.html", b"<a " * 1_000_000)  # takes minutes
    assert scope.cancelled_caught
    assert children() == before


def test_a_worker_that_has_documents_read_does_not_load_the_parsers() -> None:
    program = "import app.integrations.documents.bounded, sys; sys.exit('pypdf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
