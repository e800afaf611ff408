"""Answers: JSON bodies, the envelope of the memory, profile and key routes, paging, times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Response

from app.iso import iso


def now() -> str:
    return iso(datetime.now(UTC))


def json_reply(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    """The bare object, encoded once by msgspec."""
    return Response(
        msgspec.json.encode(value), status_code=status, headers=headers or {}, media_type="application/json"
    )


def envelope(data: Any, **beside: Any) -> dict[str, Any]:
    """``{data, status: success, timestamp}`` and what stands beside."""
    return {"data": data, "status": "success", "timestamp": now(), **beside}


def pagination(page: int, page_size: int, total: int) -> dict[str, Any]:
    """The `pagination` object of a list; pages count from 1."""
    pages = -(-total // page_size)
    return {
        "page": page,
        "page_size": page_size,
        "total_items": total,
        "total_pages": pages,
        "has_next": page < pages,
        "has_previous": page > 1,
    }
