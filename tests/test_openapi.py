"""The OpenAPI document is what is served: schemathesis asks every operation by the document and checks every answer."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from app.version import version
from tests.system import KEY, System

PROTOCOL = Path(__file__).parents[1] / "app" / "web" / "PROTOCOL.md"
BEYOND_SCHEMAS = positive_data_acceptance
"""Right by the schema and still refused: an unknown model, an unknown scope, a conversation without a user's turn."""
STREAMS = r"(/stream|/events)$"
ALIASES = r"^/integrations"
"""Refer to what is asked under the other prefix."""


def test_every_operation_answers_as_documented(live: System):
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    schema = schema.exclude(path_regex=STREAMS).exclude(path_regex=ALIASES)
    asked = []
    for found in schema.get_all_operations():
        operation = found.ok()

        # the library's own parametrize needs an older pytest; its strategies do not
        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(headers={"X-API-Key": KEY}, timeout=20, excluded_checks=[BEYOND_SCHEMAS])

        ask()
        asked.append(operation.label)
    assert len(asked) >= 10


def test_every_route_of_the_contract_is_documented_and_nothing_is_open(live: System):
    document = httpx.get(f"{live.url}/openapi.json").json()
    assert document["info"]["version"] == version()
    paths = document["paths"]
    for path, methods in {
        "/v1/messages/async": {"get", "post"},
        "/v1/messages/async/stream": {"get"},
        "/v1/messages/async/{message_id}": {"get", "delete"},
        "/v1/messages/async/{message_id}/stream": {"get"},
        "/v1/messages/async/{message_id}/status": {"get"},
        "/v1/messages/async/{message_id}/cancel": {"post"},
        "/v1/messages/async/{message_id}/delete": {"delete"},
        "/v1/stream-tokens": {"post"},
        "/v1/events": {"get"},
        "/v1/webhooks": {"get", "post"},
        "/v1/webhooks/{webhook_id}": {"get", "patch", "delete"},
        "/v1/webhooks/{webhook_id}/test": {"post"},
        "/v1/webhooks/{webhook_id}/rotate-secret": {"post"},
        "/v1/webhooks/{webhook_id}/deliveries": {"get"},
        "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}": {"get"},
        "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": {"post"},
        "/v1/memories": {"get", "post"},
        "/v1/memories/search": {"post"},
        "/v1/memories/{memory_id}": {"get", "patch", "delete"},
        "/v1/memories/{memory_id}/history": {"get"},
        "/v1/memories/batch-delete": {"post"},
        "/v1/memories/restore": {"post"},
        "/v1/memories/export": {"get"},
        "/v1/users/profile": {"get"},
        "/v1/users/profile/bio": {"get", "patch"},
        "/v1/users/profile/privacy": {"get", "patch"},
        "/v1/integrations": {"get"},
        "/v1/integrations/chat": {"post"},
        "/v1/integrations/files": {"post"},
        "/v1/integrations/social": {"post"},
        "/v1/integrations/api": {"post"},
        "/v1/integrations/{integration_id}": {"get", "delete"},
        "/v1/integrations/{integration_id}/status": {"get"},
        "/v1/integrations/{integration_id}/events": {"get"},
        "/v1/integrations/{integration_id}/cancel": {"post"},
        "/v1/integrations/{integration_id}/retry": {"post"},
        "/v1/api-keys": {"get", "post"},
        "/health/ready": {"get"},
    }.items():
        assert methods <= set(paths[path]), path
    for path, operations in paths.items():
        where = operations.get("$ref", "").removeprefix("#/paths/").replace("~1", "/") or path
        for method, operation in paths[where].items():
            if "security" in operation:
                url = live.url + re.sub(r"\{\w+\}", "x", path)
                assert httpx.request(method.upper(), url).status_code == 401, (method, path)


def test_the_readable_documentation_needs_nobody_else(live: System):
    page = httpx.get(f"{live.url}/docs")
    assert page.status_code == 200
    assert "/v1/messages/async" in page.text
    assert re.findall(r'src="([^"]*)"', page.text) == ["page/docs.js"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|(?:src|href)=\"(?:https?:)?//", page.text)
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "/v1/messages/async/{message_id}/ws" in page.text
    protocol = httpx.get(f"{live.url}/docs/protocol.md")
    assert protocol.headers["content-type"] == "text/markdown; charset=utf-8"
    assert protocol.text == PROTOCOL.read_text()
    assert "@import" not in page.text
