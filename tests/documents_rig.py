"""Documents made in code, byte by byte where a library would not make what is wanted."""

from __future__ import annotations

import io
import zipfile
import zlib

from docx import Document as Word
from pypdf import PdfReader, PdfWriter

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def pdf_of_streams(streams: list[bytes], *, title: str | None = None, filters: str = "") -> bytes:
    """A PDF whose pages show the content ``streams`` in Helvetica, with a correct table of its objects."""
    objects: list[bytes] = [b"", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    pages = []
    for stream in streams:
        objects.append(b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(stream), filters.encode(), stream))
        content = len(objects)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % content
        )
        pages.append(len(objects))
    objects[0] = b"<< /Type /Catalog /Pages 2 0 R >>"
    kids = b" ".join(b"%d 0 R" % page for page in pages)
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages))
    info = b""
    if title is not None:
        objects.append(b"<< /Title (%s) >>" % title.encode())
        info = b" /Info %d 0 R" % len(objects)
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R%s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, info, table)
    return bytes(out)


def showing(lines: list[str]) -> bytes:
    """The content stream of a page that shows ``lines`` one below the other."""
    shown = b" T* ".join(b"(%s) Tj" % line.encode("latin-1") for line in lines)
    return b"BT /F1 12 Tf 14 TL 72 720 Td %s ET" % shown


def pdf(*pages: str, title: str | None = None) -> bytes:
    return pdf_of_streams([showing(page.split("\n")) for page in pages], title=title)


def encrypted_pdf(plain: bytes, *, user: str, owner: str = "owner", algorithm: str = "AES-256") -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(plain)))
    writer.encrypt(user, owner, algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def pdf_bomb(size: int) -> bytes:
    """A page whose content unpacks to ``size`` spaces."""
    return pdf_of_streams([zlib.compress(b" " * size, 9)], filters="/Filter /FlateDecode")


def docx() -> bytes:
    """A document as Word's users make them: a title, headings, a list and a table."""
    word = Word()
    word.core_properties.title = "Trip to Lisbon"
    word.add_paragraph("We leave on Friday.")
    word.add_heading("Hotel", 1)
    word.add_paragraph("Near the river.")
    word.add_paragraph("Breakfast included", style="List Bullet")
    table = word.add_table(2, 2)
    for row, cells in zip(table.rows, (("Night", "Price"), ("Friday", "90 €")), strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    word.add_heading("Food", 2)
    word.add_paragraph("Pastéis de nata.")
    out = io.BytesIO()
    word.save(out)
    return out.getvalue()


def docx_of(body: str, *, head: str = "", **parts: str) -> bytes:
    """A document whose text part holds ``body`` alone; ``head`` stands before its root element."""
    document = f'<?xml version="1.0"?>{head}<w:document {W}><w:body>{body}</w:body></w:document>'
    return zipped({"[Content_Types].xml": "<Types/>", "word/document.xml": document, **parts})


def zipped(files: dict[str, str | bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()
