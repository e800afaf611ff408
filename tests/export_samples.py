"""Small exports of chats with an AI, in each platform's shape, and what all samples are made with."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def zipped(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


def chatgpt_node(name: str, parent: str | None, role: str, *parts: Any, at: float | None = None, **more: Any) -> dict:
    content = more.pop("content", {"content_type": "text", "parts": list(parts)})
    message = {
        "id": name,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": at,
        "update_time": None,
        "content": content,
        "status": "finished_successfully",
        "weight": 1.0,
        "metadata": {},
        "recipient": "all",
    } | more
    return {"id": name, "message": message, "parent": parent, "children": []}


def chatgpt_conversation() -> dict:
    nodes = [
        {"id": "root", "message": None, "parent": None, "children": ["sys"]},
        chatgpt_node("sys", "root", "system", "", metadata={"is_visually_hidden_from_conversation": True}),
        chatgpt_node(
            "ctx",
            "sys",
            "user",
            content={"content_type": "user_editable_context", "user_profile": "I like tea"},
            metadata={"is_visually_hidden_from_conversation": True},
        ),
        chatgpt_node("u1-old", "ctx", "user", "Wich city has most bridges?", at=1700000000.0),
        chatgpt_node("a1-old", "u1-old", "assistant", "Which what?", at=1700000001.0),
        chatgpt_node("u1", "ctx", "user", "Which city has most bridges?", at=1700000010.25),
        chatgpt_node("think", "u1", "assistant", content={"content_type": "thoughts", "thoughts": []}),
        chatgpt_node(
            "call",
            "think",
            "assistant",
            content={"content_type": "code", "language": "unknown", "text": "search('bridges')"},
            recipient="web",
        ),
        chatgpt_node("tool", "call", "tool", "<results>"),
        chatgpt_node("a1", "tool", "assistant", "Hamburg. \ue200cite\ue202turn0search1\ue201", at=1700000012.0),
        chatgpt_node(
            "u2",
            "a1",
            "user",
            content={
                "content_type": "multimodal_text",
                "parts": [
                    {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_1", "width": 1},
                    {"content_type": "audio_transcription", "text": "And this one?", "direction": "in"},
                    "Thanks",
                ],
            },
            metadata={
                "attachments": [
                    {"id": "file_1", "name": "bridge.png", "mime_type": "image/png"},
                    {"id": "file_2", "name": "list.pdf", "mime_type": "application/pdf"},
                ]
            },
            at=1700000020.0,
        ),
    ]
    return {
        "title": "Bridges",
        "create_time": 1700000000.5,
        "update_time": 1700000030.0,
        "mapping": {node["id"]: node for node in nodes},
        "current_node": "u2",
        "conversation_id": "c-1",
        "id": "c-1",
    }


def chatgpt() -> bytes:
    return as_json([chatgpt_conversation()])


def claude_message(name: str, sender: str, *words: str, at: str = "2024-05-01T10:00:00.000000Z", **more: Any) -> dict:
    return {
        "uuid": name,
        "text": "\n\n".join(words),
        "content": [{"type": "text", "text": word, "citations": []} for word in words],
        "sender": sender,
        "created_at": at,
        "updated_at": at,
        "attachments": [],
        "files": [],
    } | more


def claude_conversation() -> dict:
    return {
        "uuid": "cl-1",
        "name": "Garden plan",
        "summary": "",
        "created_at": "2024-05-01T09:59:00.5Z",
        "updated_at": "2024-05-01T12:00:00+02:00",
        "account": {"uuid": "acc"},
        "chat_messages": [
            claude_message(
                "m1",
                "human",
                "What grows in shade?",
                attachments=[
                    {"file_name": "soil.txt", "file_size": 20, "file_type": "txt", "extracted_content": "clay\nwet"}
                ],
                files=[{"file_name": "yard.jpg"}],
            ),
            claude_message(
                "m2",
                "assistant",
                at="2024-05-01T10:00:05Z",
                text="This block is not supported.",
                content=[
                    {"type": "thinking", "thinking": "shade…"},
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "name": "search", "input": {}},
                    {"type": "tool_result", "name": "search", "content": []},
                    {"type": "text", "text": "Ferns."},
                ],
            ),
            claude_message("m3", "human", text="Thank you", content=[], at="2024-05-01T10:01:00Z"),
        ],
    }


def claude() -> bytes:
    return as_json([claude_conversation()])
