"""What a social archive holds, whatever the platform."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

import msgspec

from app.integrations.types import Problem

ItemKind = Literal["profile", "position", "education", "skills", "post", "repost", "comment", "message"]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One thing somebody said or states of themselves.

    ``mine``: said by the person whose archive it is. Messages of others and reposts are not, and no facts about the
    person may be drawn from them; neither are messages of which the archive does not tell who the person is.
    """

    id: str  # the platform's own, else of the content: the same in every later archive
    kind: ItemKind
    text: str
    said_at: datetime | None = None  # aware, UTC
    url: str | None = None
    title: str | None = None
    mine: bool = True


Items = Iterator[Item | Problem]
