"""Schemathesis against the OpenAPI document: whatever it generates is answered as documented, and never with a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.server.running import Running

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


OPERATIONS = [
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/v1/attributes"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/score"),
]


@pytest.fixture(scope="module")
def document(server: Running) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def call(case: schemathesis.Case) -> int:
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        # a random name is 404 at once; the answers are kept short
        case.body["model"] = "tiny"
        if isinstance(case.body.get("max_tokens"), int):
            case.body["max_tokens"] = min(case.body["max_tokens"], 4)
    return int(case.call_and_validate(checks=CHECKS).status_code)


def test_all_operations_are_documented(document: Any) -> None:
    found = [result.ok() for result in document.get_all_operations()]
    assert {(operation.method.upper(), operation.path) for operation in found} == set(OPERATIONS)


@pytest.mark.parametrize("count", [10, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_documented_requests(document: Any, method: str, path: str, count: int) -> None:
    operation = document[path][method]
    statuses: set[int] = set()

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.one_of(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))
    def run(case: schemathesis.Case) -> None:
        statuses.add(call(case))

    run()
    assert statuses
    if method == "GET" and "{" not in path:
        assert 200 in statuses
