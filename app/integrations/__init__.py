"""Bringing in what people have elsewhere: conversations and documents from outside.

- `types`: what readers give: conversations, messages, problems.
- `exports`: readers of chat platforms' exports. `documents`: of pdf, docx, txt, md and html. `social`: of the archives
  of LinkedIn, X and Reddit. `records`: of JSON and NDJSON from any API.
- `zips`: zips within bounds, for all of them.
- `social/api`: LinkedIn, X and Reddit by access token.
- `integration`, `receiving`, `store`, `claimed` and `job`, `watch`: one integration, its way in, its rows, the work on
  it, and those who watch it.
- `kinds`: what each type does in its steps.

Readers are pure: bytes in, structs out. They open no file, no connection and no database. Only `social/api` asks
others, through the client it is given (`app.outbound`).
"""
