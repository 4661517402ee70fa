"""schemathesis reads our own OpenAPI page and asks what it allows: nothing may end in a 5xx."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.runtime.server.real import HEADERS, real_server

schemathesis = pytest.importorskip("schemathesis")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

# Short answers, and few of them: each of a thousand requests may ask for all that the server gives.
FLAGS = ("--max-len", "128", "--max-n", "4", "--max-prompts", "8")


@pytest.fixture(scope="session")
def openapi() -> Iterator[Any]:
    with real_server(*FLAGS) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=HEADERS)


page = schemathesis.pytest.from_fixture("openapi")


@page.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_that_the_page_allows_breaks_the_server(case: Any) -> None:
    answer = case.call(headers=HEADERS, timeout=60)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
