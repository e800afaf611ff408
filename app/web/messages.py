"""Routes of asynchronous messages: initiate, list, read, status, cancel, delete. PROTOCOL.md section 1.

Observing has modules of its own (`observe`, `several`, `sockets`). Nothing here keeps state: every answer is read from
or decided by the message's own record, so any web process can serve any message.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler

from app import ids
from app.accounts import Accounts, Caller
from app.chat import log
from app.chat.events import content_of
from app.chat.lifecycle import Lifecycle, NewMessage, missing
from app.chat.listing import MessageList
from app.chat.message import STATUSES, Message, iso
from app.errors import Forbidden
from app.llm.models import Models
from app.settings import Settings
from app.web.guard import MESSAGES_READ, MESSAGES_WRITE, caller_of, user_of
from app.web.initiate import Initiate, check_message_id, digest_of, problems
from app.web.parse import check, decode, one_of, whole_number

TOKEN_GRACE_S: Final = 3600
"""How much longer than the message's deadline a stream token lives, so that a browser can come back."""

IDEMPOTENCY_KEY_MAX = 255


class MessageRoutes:
    """The handlers, over the services they call."""

    def __init__(self, lifecycle: Lifecycle, models: Models, accounts: Accounts, settings: Settings) -> None:
        self._lifecycle = lifecycle
        self._list = MessageList(lifecycle)
        self._models = models
        self._accounts = accounts
        self._settings = settings

    def handlers(self) -> list[HTTPRouteHandler]:
        """The Litestar handlers, to be registered with the application."""
        return []
