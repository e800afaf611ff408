"""Bringing in what people have elsewhere: conversations and documents from outside.

- `types`: what readers give: conversations, messages, problems.
- `exports`: readers of chat platforms' exports. `documents`: of pdf, docx, txt, md and html. `social`: of the archives
  of LinkedIn, X and Reddit.
- `zips`: zips within bounds, for all of them.
- `bring`: the way of what was read into the queue of `app.history`.

Readers are pure: bytes in, structs out. They open no file, no connection and no database.
"""
