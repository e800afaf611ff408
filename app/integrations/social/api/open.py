"""One social API, whatever the platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from app.integrations.social.api import linkedin, reddit, twitter
from app.integrations.social.api.ask import Asker, Limit
from app.integrations.social.api.types import Pauses, SocialApi, Waiting
from app.integrations.types import Unreadable
from app.outbound import Outbound
from app.version import version


class _Platform(NamedTuple):
    called: str
    make: Callable[[Asker], SocialApi]
    limit: Limit
    headers: dict[str, str]


_X = _Platform("X", twitter.XApi, twitter.limit, {})
_PLATFORMS = {
    "linkedin": _Platform("LinkedIn", linkedin.LinkedInApi, linkedin.limit, {"linkedin-version": linkedin.VERSION}),
    "twitter": _X,
    "x": _X,
    "reddit": _Platform("Reddit", reddit.RedditApi, reddit.limit, {"user-agent": f"server:reprise:{version()}"}),
}


def open_api(
    platform: str,
    token: str,
    base: str,
    outbound: Outbound,
    *,
    pauses: Pauses | None = None,
    waiting: Waiting | None = None,
) -> SocialApi:
    """``platform`` is linkedin, twitter or x, or reddit; ``base`` its address. ``waiting`` is told of each pause.

    Raises `Unreadable` UNSUPPORTED, and UNAUTHORIZED for a token that no platform gives out.
    """
    found = _PLATFORMS.get(platform)
    if found is None:
        raise Unreadable("UNSUPPORTED", "Only LinkedIn, X and Reddit are read by access token.")
    asker = Asker(
        outbound,
        found.called,
        base,
        token,
        headers=found.headers,
        limit=found.limit,
        pauses=pauses or Pauses(),
        waiting=waiting,
    )
    return found.make(asker)
