"""Bringing in what people have elsewhere: conversations and documents from outside.

- `types`: what readers give: conversations, messages, problems.
- `exports`: readers of chat platforms' exports.

Readers are pure: bytes in, structs out. They open no file, no connection and no database.
"""
