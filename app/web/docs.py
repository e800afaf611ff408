"""The OpenAPI document at `/openapi.json` and its readable form at `/docs`.

The document is made from the routes themselves: path, method, description and scope from the handler, bodies from the
msgspec types that decode them, so that it cannot say what the program does not do. What a handler's signature does not
tell stands in its options: ``body`` (the type of the JSON body), ``example`` (one such body), ``form`` (of a form with
files: the type of its fields, file name → JSON schema), ``optional`` (the body may be left out), ``answer`` (the type
of the answer), ``query`` (name → JSON schema), ``headers`` (name → description), ``also`` (further status →
description, type or None). A handler with several paths is described at the longest, the others refer to it. The page
loads nothing from anywhere else; `page/docs.js` makes every operation a form to try it with.
"""

from __future__ import annotations

import html
import inspect
from collections.abc import Iterable
from importlib.resources import files
from typing import Any, get_args, get_type_hints

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from litestar.routes import HTTPRoute

from app.version import version
from app.web.multipart import KIND
from app.web.page import CONTENT_SECURITY_POLICY
from app.web.reply import json_reply

REF = "#/components/schemas/{name}"
KEYED: list[dict[str, list[str]]] = [{"ApiKey": []}, {"Bearer": []}]
TOKENED = [*KEYED, {"StreamToken": []}]
FIRST = ("messages", "memories", "profile", "API keys")
"""The order of the page; other groups follow as they come."""
POLICY = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
UNDOCUMENTED = frozenset({"HEAD", "OPTIONS"})


class ErrorDetail(msgspec.Struct):
    code: str
    message: str
    details: dict[str, Any]


class Error(msgspec.Struct):
    """The one shape of every error. The id concerned (`message_id`, …) stands beside these fields."""

    error: ErrorDetail
    status: str
    timestamp: str
    code: str
    detail: str


def docs_handlers() -> list[HTTPRouteHandler]:
    """The Litestar handlers."""
    made: dict[str, Any] = {}

    def document(app: Litestar) -> dict[str, Any]:
        if not made:
            made.update(openapi(app))
        return made

    @get("/openapi.json", opt={"public": True, "hidden": True}, sync_to_thread=False)
    def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
        return json_reply(document(request.app))

    @get("/docs", opt={"public": True, "hidden": True}, sync_to_thread=False)
    def docs(request: Request[Any, Any, Any]) -> Response[str]:
        return Response(render(document(request.app)), media_type="text/html", headers=POLICY)

    @get("/docs/protocol.md", opt={"public": True, "hidden": True}, sync_to_thread=False)
    def protocol() -> Response[bytes]:
        text = (files("app.web") / "PROTOCOL.md").read_bytes()
        return Response(text, media_type="text/markdown", headers=POLICY)

    return [openapi_json, docs, protocol]


def openapi(app: Litestar) -> dict[str, Any]:
    """The OpenAPI 3.1 document of everything that is served over HTTP and not hidden."""
    found = [
        (route.path_format, str(method), handler)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in sorted(handler.http_methods)
        if method not in UNDOCUMENTED and handler.tags and not handler.opt.get("hidden")
    ]
    types = [handler.opt[part] for _, _, handler in found for part in ("body", "answer") if part in handler.opt]
    _, schemas = msgspec.json.schema_components([Error, *types], ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for path, method, handler in sorted(found, key=lambda one: (one[0], one[1])):
        where = max((other for other, _, same in found if same.fn is handler.fn), key=len)
        if path == where:
            paths.setdefault(path, {})[method.lower()] = _operation(path, handler)
        else:
            paths[path] = {"$ref": f"#/paths/{where.replace('/', '~1')}"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Reprise",
            "version": version(),
            "summary": "Chat messages that go on when the client does not.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
                "StreamToken": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


def _operation(path: str, handler: HTTPRouteHandler) -> dict[str, Any]:
    """One operation of the document."""
    options = handler.opt
    summary, _, rest = inspect.cleandoc(handler.fn.__doc__ or handler.summary or "").partition("\n")
    scope = options.get("scope")
    operation: dict[str, Any] = {
        "operationId": handler.operation_id,
        "summary": handler.summary or summary,
        "tags": list(handler.tags or []),
        "responses": _responses(handler),
    }
    needs = f"Needs the scope `{scope}`." if scope else ""
    if description := "\n\n".join(part for part in (rest.strip(), needs) if part):
        operation["description"] = description
    if parameters := [*_path_parameters(path), *_query_parameters(handler), *_header_parameters(options)]:
        operation["parameters"] = parameters
    content: dict[str, Any] = {}
    if "body" in options:
        content |= _json(options["body"])
        if "example" in options:
            content["application/json"]["example"] = options["example"]
    if "form" in options:
        content |= _form(*options["form"])
    if content:
        operation["requestBody"] = {"required": not options.get("optional"), "content": content}
    if scope or not options.get("public"):
        operation["security"] = TOKENED if options.get("token") or options.get("public") else KEYED
    return operation


def _responses(handler: HTTPRouteHandler) -> dict[str, Any]:
    options, status = handler.opt, str(handler.status_code)
    answer: dict[str, Any] = {"description": "Done."}
    if "answer" in options:
        answer["content"] = _json(options["answer"])
    elif handler.media_type and status != "204":
        kind = getattr(handler.media_type, "value", str(handler.media_type))
        answer["content"] = {kind.partition(";")[0]: {}}
    also = {
        str(code): {"description": text} | ({"content": _json(kind)} if kind else {})
        for code, (text, kind) in options.get("also", {}).items()
    }
    error = {"description": "An error, in the one shape all errors have.", "content": _json(Error)}
    return {status: answer, **also, "4XX": error, "5XX": error}


def _json(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REF)
    return {"application/json": {"schema": schema}}


def _form(kind: type[msgspec.Struct], files: dict[str, Any]) -> dict[str, Any]:
    """A form's schema: its fields, which cannot be null, and its files."""
    _, components = msgspec.json.schema_components([kind], ref_template=REF)
    fields = {name: _never_null(schema) for name, schema in components[kind.__name__]["properties"].items()}
    required = [*components[kind.__name__].get("required", []), *files]
    return {KIND: {"schema": {"type": "object", "properties": fields | files, "required": required}}}


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("default", 0) is None:
        schema = {key: value for key, value in schema.items() if key != "default"}
    if "enum" in schema:
        return schema | {"enum": [choice for choice in schema["enum"] if choice is not None]}
    choices = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return rest | choices[0] if len(choices) == 1 else schema


def _path_parameters(path: str) -> Iterable[dict[str, Any]]:
    for part in path.split("/"):
        if part.startswith("{"):
            yield {"name": part.strip("{}"), "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(handler: HTTPRouteHandler) -> Iterable[dict[str, Any]]:
    """Those the options tell, and those of the signature that are marked as query parameters."""
    for name, schema in handler.opt.get("query", {}).items():
        yield {"name": name, "in": "query", "schema": schema}
    for name, hint in get_type_hints(handler.fn, include_extras=True).items():
        for mark in get_args(hint)[1:]:
            if isinstance(mark, QueryParameter):
                schema = {"type": "string"}
                yield {
                    "name": mark.name or name,
                    "in": "query",
                    "description": mark.description or "",
                    "schema": schema,
                }


def _header_parameters(options: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for name, description in options.get("headers", {}).items():
        yield {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def render(document: dict[str, Any]) -> str:
    """The document as a page to read."""
    groups: dict[str, list[str]] = {name: [] for name in FIRST}
    for path, methods in _described(document).items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_section(path, method, operation))
    links = " ".join(f'<a href="#{_anchor(name)}">{html.escape(name)}</a>' for name in groups)
    sections = "".join(
        f'<h2 id="{_anchor(name)}">{html.escape(name[:1].upper() + name[1:])}</h2>{"".join(parts)}'
        for name, parts in groups.items()
    )
    schemas = "".join(
        f'<details id="schema-{html.escape(name)}"><summary><code>{html.escape(name)}</code></summary>'
        f"{_pretty(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    )
    title = html.escape(document["info"]["title"])
    return PAGE.format(
        title=title,
        version=html.escape(document["info"]["version"]),
        summary=html.escape(document["info"]["summary"]),
        links=links,
        sections=sections,
        schemas=schemas,
    )


def _described(document: dict[str, Any]) -> dict[str, Any]:
    """The paths without those that refer to another."""
    return {path: methods for path, methods in document["paths"].items() if "$ref" not in methods}


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(p['name'])}</code></td><td>{p['in']}</td>"
        f"<td>{html.escape(p.get('description', ''))} <small>{html.escape(_brief(p['schema']))}</small></td></tr>"
        for p in operation.get("parameters", [])
    )
    parts = [f"<p>{html.escape(operation.get('description', '')).replace('`', '')}</p>"]
    if rows:
        parts.append(f"<table>{rows}</table>")
    if "requestBody" in operation:
        parts.append(f"<p>Body: {_link(operation['requestBody']['content'])}</p>")
    for status, response in operation["responses"].items():
        if status[0] in "23":
            parts.append(
                f"<p>{status}: {_link(response.get('content', {}))} {html.escape(response['description'])}</p>"
            )
    return (
        f'<details class="op" id="{html.escape(operation["operationId"])}"><summary>'
        f'<b class="{method}">{method.upper()}</b> <code>{html.escape(path)}</code> '
        f"<span>{html.escape(operation['summary'])}</span></summary>{''.join(parts)}</details>"
    )


def _link(content: dict[str, Any]) -> str:
    out = []
    for kind, value in content.items():
        reference = value.get("schema", {}).get("$ref", "")
        name = html.escape(reference.rpartition("/")[2])
        out.append(f'<a href="#schema-{name}">{name}</a>' if name else f"<code>{html.escape(kind)}</code>")
    return " or ".join(out)


def _brief(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    default = [f"default {schema['default']}"] if "default" in schema else []
    return ", ".join([str(schema.get("type", "")), *bounds, *default])


def _pretty(schema: dict[str, Any]) -> str:
    return f"<pre>{html.escape(msgspec.json.format(msgspec.json.encode(schema)).decode())}</pre>"


def _anchor(name: str) -> str:
    return html.escape(name.replace(" ", "-"))


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} API</title>
<link rel="icon" href="page/favicon.svg" type="image/svg+xml">
<link rel="stylesheet" href="page/docs.css"><script type="module" src="page/docs.js"></script>
<h1>{title} <small>{version}</small></h1><p>{summary}</p>
<p>Every request carries <code>X-API-Key: KEY</code> or <code>Authorization: Bearer KEY</code>; streams take
<code>?token=</code> as well. The whole document for machines: <a href="openapi.json">/openapi.json</a>.
What every route promises: <a href="docs/protocol.md">the protocol</a>.</p>
<nav>{links} <a href="#websocket">WebSocket</a> <a href="#schemas">Schemas</a></nav>
{sections}
<h2 id="websocket">WebSocket</h2>
<details class="op"><summary><b class="get">GET</b> <code>/v1/messages/async/{{message_id}}/ws</code>
<span>Observe a message over a WebSocket</span></summary>
<p>The same events as the stream's, one <code>data</code> object a text frame; <code>after</code> is the sequence number
to go on after, <code>token</code> the stream token of the message, for browsers.
<code>{{"type": "cancel"}}</code> sent to it cancels the message. <a href="docs/protocol.md">The protocol</a> names the
close codes. An integration has the same at <code>/v1/integrations/{{integration_id}}/ws</code>.</p></details>
<h2 id="schemas">Schemas</h2>{schemas}
</html>
"""
