"""X, Reddit and LinkedIn on loopback: their paths, paging, headers and rate limits, under a clock of the test's own."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

from app.integrations.social.api.open import open_api
from app.integrations.social.api.types import Page, Pauses, SocialApi
from app.outbound import open_outbound
from tests.site_rig import Asked, Reply, site
from tests.social_rig import LINKEDIN

TOKEN = "tok-3n"


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.slept: list[float] = []
        self.told: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def waiting(self, seconds: float) -> None:
        self.told.append(seconds)


class Platform:
    """A platform of one account. ``scripted`` answers come first; then every request is checked, counted, answered."""

    name = ""
    window_s = 900.0

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.allowed: int | None = None
        self.left = 0
        self.ends = 0.0
        self.refused = 0
        self.scripted: list[Reply] = []
        self.paths: list[str] = []

    def __call__(self, asked: Asked) -> Reply:
        self.paths.append(asked.path)
        if self.scripted:
            return self.scripted.pop(0)
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(401, {"title": "Unauthorized", "status": 401})
        if not self.well_asked(asked):
            return Reply(400, {"message": "the request is not what the documentation says"})
        if self.allowed is not None:
            if self.clock.now >= self.ends:
                self.left, self.ends = self.allowed, self.clock.now + self.window_s
            if self.left == 0:
                self.refused += 1
                return self.headed(Reply(429, {"title": "Too Many Requests"}))
            self.left -= 1
        return self.headed(self.answer(asked))

    def well_asked(self, asked: Asked) -> bool:
        return asked.headers["accept"] == "application/json"

    def answer(self, asked: Asked) -> Reply:
        raise NotImplementedError

    def limits(self) -> dict[str, str]:
        return {}

    def headed(self, reply: Reply) -> Reply:
        more = self.limits() if self.allowed is not None else {}
        return reply._replace(headers=dict(reply.headers) | more | {"date": formatdate(self.clock.now, usegmt=True)})


class X(Platform):
    name = "x"

    def __init__(self, clock: Clock, posts: list[Any] | None = None) -> None:
        super().__init__(clock)
        self.posts = posts if posts is not None else [x_post(number) for number in range(250)]
        self.user: Any = {
            "id": "7",
            "username": "ada_b",
            "name": "Ada",
            "description": "Boats &amp; https://t.co/b",
            "location": None,
            "url": "https://t.co/w",
            "entities": {
                "url": {"urls": [{"url": "https://t.co/w", "expanded_url": "https://ada.example"}]},
                "description": {"urls": [{"url": "https://t.co/b", "expanded_url": "https://boats.example"}]},
            },
            "public_metrics": {"tweet_count": len(self.posts), "followers_count": 1},
        }

    def limits(self) -> dict[str, str]:
        return {
            "x-rate-limit-limit": str(self.allowed),
            "x-rate-limit-remaining": str(self.left),
            "x-rate-limit-reset": str(int(self.ends)),
        }

    def answer(self, asked: Asked) -> Reply:
        if asked.path == "/2/users/me":
            fields = set(asked.query["user.fields"].split(","))
            kept = {"id", "username", "name"} | fields
            return Reply(body={"data": {key: value for key, value in self.user.items() if key in kept}})
        if asked.path != "/2/users/7/tweets":
            return Reply(404, {"title": "Not Found Error"})
        count = int(asked.query["max_results"])
        if not 5 <= count <= 100 or "note_tweet" not in asked.query["tweet.fields"]:
            return Reply(400, {})
        start = int(asked.query.get("pagination_token", "t0").removeprefix("t"))
        page = self.posts[start : start + count]
        meta: dict[str, Any] = {"result_count": len(page)}
        if start + count < len(self.posts):
            meta["next_token"] = f"t{start + count}"
        if start:
            meta["previous_token"] = f"t{max(0, start - count)}"
        return Reply(body={"data": page, "meta": meta} if page else {"meta": meta})


def x_post(number: int, **more: Any) -> dict[str, Any]:
    made = {"id": str(1_000 + number), "text": f"Post {number}", "created_at": "2024-05-01T10:00:00.000Z"}
    return made | {"edit_history_tweet_ids": [made["id"]]} | more


class Reddit(Platform):
    name = "reddit"
    window_s = 600.0

    def __init__(self, clock: Clock, posts: int = 150, comments: int = 101) -> None:
        super().__init__(clock)
        self.me: Any = {"name": "ada_b", "id": "u1", "subreddit": {"title": ""}}
        self.things: dict[str, list[Any]] = {
            "submitted": [reddit_post(f"p{number}") for number in range(posts)],
            "comments": [reddit_comment(f"c{number}") for number in range(comments)],
        }

    def well_asked(self, asked: Asked) -> bool:
        agent = asked.headers["user-agent"]
        return super().well_asked(asked) and "reprise" in agent and asked.query.get("raw_json") == "1"

    def limits(self) -> dict[str, str]:
        reset = max(0, int(self.ends - self.clock.now))
        return {"X-Ratelimit-Remaining": f"{self.left}.0", "X-Ratelimit-Reset": str(reset), "X-Ratelimit-Used": "1"}

    def answer(self, asked: Asked) -> Reply:
        if asked.path == "/api/v1/me":
            return Reply(body=self.me)
        root, name, listing = asked.path.strip("/").split("/")
        if (root, name) != ("user", "ada_b") or listing not in self.things:
            return Reply(404, {"message": "Not Found"})
        things, after = self.things[listing], asked.query.get("after")
        names = [f"{thing['kind']}_{thing['data']['id']}" for thing in things]
        start = names.index(after) + 1 if after else 0
        count = min(100, int(asked.query.get("limit", "25")))
        page = things[start : start + count]
        last = names[start + len(page) - 1] if start + len(page) < len(things) else None
        return Reply(body={"kind": "Listing", "data": {"after": last, "before": None, "children": page}})


def reddit_post(post_id: str, **more: Any) -> dict[str, Any]:
    data = {
        "id": post_id,
        "created_utc": 1_704_164_645.0,
        "permalink": f"/r/boats/comments/{post_id}/my_boat/",
        "subreddit": "boats",
        "title": f"Boat {post_id}",
        "selftext": "It floats & sails.",
        "url": f"https://www.reddit.com/r/boats/comments/{post_id}/my_boat/",
        "is_self": True,
        "media": None,
    }
    return {"kind": "t3", "data": data | more}


def reddit_comment(comment_id: str, **more: Any) -> dict[str, Any]:
    data = {
        "id": comment_id,
        "created_utc": 1_704_164_645.0,
        "permalink": f"/r/boats/comments/p/x/{comment_id}/",
        "subreddit": "boats",
        "body": f"Comment {comment_id}",
        "title": None,
    }
    return {"kind": "t1", "data": data | more}


DOMAIN_FILES = {
    "PROFILE": "Profile.csv",
    "POSITIONS": "Positions.csv",
    "EDUCATION": "Education.csv",
    "SKILLS": "Skills.csv",
    "MEMBER_SHARE_INFO": "Shares.csv",
    "ALL_COMMENTS": "Comments.csv",
    "INBOX": "messages.csv",
}


def linkedin_rows(file: str) -> list[dict[str, str]]:
    text = LINKEDIN[file].removeprefix("\ufeff").replace('\\"', '""')
    return [{k: v or "" for k, v in row.items() if k} for row in csv.DictReader(io.StringIO(text, newline=""))]


class LinkedIn(Platform):
    """Without rate-limit headers, as LinkedIn is. Each page holds ``page`` rows and leads on, the last to a 404."""

    name = "linkedin"

    def __init__(self, clock: Clock, page: int = 2) -> None:
        super().__init__(clock)
        self.page = page
        self.openid = True
        self.names: Any = {"sub": "s", "name": "Ada B", "given_name": "Ada", "family_name": "Byrne", "locale": {}}
        self.host = ""
        self.domains: dict[str, list[Any]] = {domain: linkedin_rows(file) for domain, file in DOMAIN_FILES.items()}

    def well_asked(self, asked: Asked) -> bool:
        return super().well_asked(asked) and asked.headers.get("linkedin-version", "").isdigit()

    def answer(self, asked: Asked) -> Reply:
        if asked.path == "/v2/userinfo":
            if not self.openid:
                return Reply(
                    403, {"status": 403, "message": "Not enough permissions to access: userinfo.GET.NO_VERSION"}
                )
            return Reply(body=self.names | {"email_verified": True})
        if asked.path != "/rest/memberSnapshotData" or asked.query.get("q") != "criteria":
            return Reply(404, {"status": 404})
        domain, start = asked.query["domain"], int(asked.query.get("start", "0"))
        rows = self.domains.get(domain, [])[start * self.page : (start + 1) * self.page]
        if not rows:
            return Reply(404, {"message": "No data found for this memberId", "status": 404})
        href = f"{self.host}/rest/memberSnapshotData?count=10&domain={domain}&q=criteria&start={start + 1}"
        links = [{"type": "application/json", "rel": "next", "href": href}]
        if start:
            links.insert(0, {"type": "application/json", "rel": "prev", "href": href.replace("start=", "start=-")})
        return Reply(
            body={
                "paging": {"start": start, "count": 10, "links": links, "total": 99},
                "elements": [{"snapshotDomain": domain, "snapshotData": rows}],
            }
        )


@asynccontextmanager
async def opened(platform: Platform, token: str = TOKEN, **pauses: Any) -> AsyncIterator[SocialApi]:
    """An API over the scripted platform, its pauses in the platform's own time."""
    clock = platform.clock
    async with site(platform) as made, open_outbound(allow_private=True) as outbound:
        waits = Pauses(sleep=clock.sleep, clock=lambda: clock.now, **pauses)
        yield open_api(platform.name, token, made.url, outbound, pauses=waits, waiting=clock.waiting)


async def all_pages(api: SocialApi, cursor: str | None = None) -> list[Page]:
    return [page async for page in api.pages(cursor)]
