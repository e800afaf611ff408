"""The chat page at `/` and the browser client at `/client.js`: plain files, read once, served with a strict policy.

Owns the static routes only; the page itself talks to the API like any other client. No key is needed to read the
files: they hold no secret.

1. Only the files found when the handlers are made exist; a request's path is looked up in a dict, never on disk.
2. `Cache-Control: no-cache` with an ETag: a browser asks each time and gets 304, so an upgrade is never half seen.
3. Whether the default model is only the built-in demo is written into the page when the handlers are made: the page
   says so before the first word, and no request has to ask.
4. The policy allows nothing but our own files. Trusted Types make the browser itself refuse `innerHTML`: a model's
   answer can only ever become text.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import PurePath
from typing import Any

import msgspec
from litestar import Request, Response, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from app.errors import NotFound

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types reprise",
    )
)


class PageFile(msgspec.Struct, frozen=True):
    """One static file: its bytes and the headers that go with them."""

    body: bytes
    headers: dict[str, str]

    @property
    def etag(self) -> str:
        return self.headers["ETag"]


DEMO_LINE = b'<p id="demo" hidden>'


def read_page_files(demo: bool = False) -> dict[str, PageFile]:
    """Every file of the page by name, for example ``app.js``; with ``demo``, the page shows its line about it."""
    folder = resources.files("app.web") / "page"
    bodies = {
        entry.name: entry.read_bytes() for entry in folder.iterdir() if PurePath(entry.name).suffix in MEDIA_TYPES
    }
    if demo:
        bodies["index.html"] = bodies["index.html"].replace(DEMO_LINE, DEMO_LINE.replace(b" hidden", b""))
    return {name: _page_file(name, body) for name, body in bodies.items()}


def _page_file(name: str, body: bytes) -> PageFile:
    headers = {
        "Content-Type": MEDIA_TYPES[PurePath(name).suffix],
        "Content-Length": str(len(body)),
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Cache-Control": "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return PageFile(body, headers)


def _matches(if_none_match: str, etag: str) -> bool:
    """Weak comparison of RFC 9110, section 13.1.2."""
    candidates = [value.strip().removeprefix("W/") for value in if_none_match.split(",")]
    return "*" in candidates or etag in candidates


def _answer(file: PageFile, request: Request[Any, Any, Any]) -> Response[bytes]:
    media_type = file.headers["Content-Type"]
    if _matches(request.headers.get("if-none-match", ""), file.etag):
        headers = {name: value for name, value in file.headers.items() if name != "Content-Length"}
        return Response(b"", status_code=304, headers=headers, media_type=media_type)
    body = b"" if request.method == HttpMethod.HEAD else file.body
    return Response(body, status_code=200, headers=file.headers, media_type=media_type)


def page_handlers(demo: bool = False) -> list[HTTPRouteHandler]:
    """The handlers of `/`, `/client.js` and `/page/<file>`, for GET and HEAD; they need no key.

    ``demo`` says that the default model is the built-in one, which is no language model.
    """
    files = read_page_files(demo)
    methods = [HttpMethod.GET, HttpMethod.HEAD]
    public: dict[str, Any] = {"public": True}

    @route("/", http_method=methods, include_in_schema=False, opt=public, sync_to_thread=False)
    def index(request: Request[Any, Any, Any]) -> Response[bytes]:
        return _answer(files["index.html"], request)

    @route("/client.js", http_method=methods, include_in_schema=False, opt=public, sync_to_thread=False)
    def client(request: Request[Any, Any, Any]) -> Response[bytes]:
        return _answer(files["client.js"], request)

    @route("/page/{name:str}", http_method=methods, include_in_schema=False, opt=public, sync_to_thread=False)
    def file(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        found = files.get(name)
        if found is None:
            raise NotFound("file", f"there is no file {name!r}")
        return _answer(found, request)

    return [index, client, file]
