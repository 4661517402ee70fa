"""Fixtures for programs over someone else's API."""

from collections.abc import Callable, Iterator

import pytest
from tests.fake_api import Answer, FakeApi


@pytest.fixture
def fake_api() -> Iterator[Callable[[Answer], FakeApi]]:
    made: list[FakeApi] = []

    def make(answer: Answer) -> FakeApi:
        made.append(FakeApi(answer))
        return made[-1]

    yield make
    for api in made:
        api.close()
