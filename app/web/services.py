"""What the handlers of one web process share, put together once in `serve`."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from litestar import Request

from app.accounts import Accounts
from app.chat.lifecycle import Lifecycle
from app.chat.listing import MessageList
from app.llm.models import Models
from app.settings import Settings

STATE_KEY = "services"


class Services(msgspec.Struct, frozen=True):
    """The collaborators of a handler."""

    settings: Settings
    accounts: Accounts
    lifecycle: Lifecycle
    messages: MessageList
    models: Models


def services(request: Request[Any, Any, Any]) -> Services:
    """The services of the application that serves this request."""
    return cast(Services, request.app.state[STATE_KEY])
