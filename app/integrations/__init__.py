"""Bringing in what people have elsewhere: conversations and documents from outside.

- `types`: what readers give: conversations, messages, problems.
- `exports`: readers of chat platforms' exports. `documents`: of pdf, docx, txt, md and html. `social`: of the archives
  of LinkedIn, X and Reddit.
- `integration`, `store`, `job`, `watch`: one integration, its rows, the work on it, and those who watch it.
- `kinds`: what each type does in its steps.

Readers are pure: bytes in, structs out. They open no file, no connection and no database.
"""
