"""schemathesis reads our own OpenAPI page and asks what it allows: nothing may end in a 5xx."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.runtime.server.real import HEADERS, real_server

schemathesis = pytest.importorskip("schemathesis")
pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),
]

# Short answers, and few of them: each of a thousand requests may ask for all that the server gives.
FLAGS = ("--max-len", "128", "--max-n", "4", "--max-prompts", "8")
EXAMPLES = 50


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with real_server(*FLAGS) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=HEADERS)


def test_nothing_that_the_page_allows_breaks_the_server(page: Any, capsys: Any) -> None:
    statuses: dict[int, int] = {}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    def ask(case: Any) -> None:
        answer = case.call(headers=HEADERS, timeout=60)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (case.path, case.body, answer.text)
        if answer.status_code >= 400 and case.method != "HEAD":
            assert answer.json()["error"]["message"]

    for found in page.get_all_operations():
        given(case=found.ok().as_strategy())(ask)()
    with capsys.disabled():
        print(f"\nschemathesis: {statuses}")
