"""Documents: the bytes of a pdf, docx, txt, md or html file become pieces of text, and those chunks.

- `read.read_document` reads in this process; `bounded.read_document_bounded` in a short-lived one with limits, which is
  what a worker calls: a hostile file must not hold it.
- `cut.cut` makes chunks of the pieces.
- One module per kind (`pdf`, `docx`, `text`, `markdown`, `html`), `kinds` tells them apart by their content.
"""
