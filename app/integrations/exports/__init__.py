"""Readers of chat platforms' exports: bytes in, `Conversation` and `Problem` out.

- `reader`: any platform's export, and which platform's it is.
- `chatgpt`, `claude`, `telegram`, `whatsapp`, `slack`, `discord`: one platform each, with what it leaves out.
- `source`: what they read from and gather; whose account it is.
- `fields`: values out of unchecked JSON.
"""
