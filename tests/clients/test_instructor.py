"""instructor: answers in types, by tools and by schemas, whole and as they grow."""

import asyncio
from collections.abc import Iterable
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from tests.clients.jobs import KEY, QUESTION, RECORD, Person, check_person

instructor = pytest.importorskip("instructor")
openai = pytest.importorskip("openai")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

MODES = pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"])
BLOCKING = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "async"])
ASK: dict[str, Any] = {
    "model": "sprout",
    "messages": [{"role": "user", "content": RECORD}],
    "max_retries": 0,
    "temperature": 0,
    "max_tokens": 200,
}


class Mood(BaseModel):
    """Whether a text is glad."""

    mood: Literal["glad", "sad"]
    sure: bool


class Family(BaseModel):
    """People of one name."""

    name: str
    people: list[Person]
    head: Person | None


def make_client(url: str, mode: str, blocking: bool = True) -> Any:
    inner = (openai.OpenAI if blocking else openai.AsyncOpenAI)(
        base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=180
    )
    return instructor.from_openai(inner, mode=getattr(instructor.Mode, mode))


@MODES
@BLOCKING
@pytest.mark.parametrize("kind", [Person, Mood, Family])
def test_an_answer_is_a_model(url: str, mode: str, blocking: bool, kind: Any) -> None:
    made = make_client(url, mode, blocking).chat.completions.create(response_model=kind, **ASK)
    answer = made if blocking else asyncio.run(_awaited(made))
    assert isinstance(answer, kind)
    if kind is Person:
        check_person(answer)


async def _awaited(made: Any) -> Any:
    return await made


@MODES
def test_an_answer_grows(url: str, mode: str) -> None:
    found = list(
        make_client(url, mode).chat.completions.create_partial(response_model=Person, **ASK)
    )
    check_person(found[-1].model_dump())
    assert len(found) > 1


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_an_answer_is_a_list_of_models(url: str, mode: str) -> None:
    found = make_client(url, mode).chat.completions.create(response_model=Iterable[Person], **ASK)
    assert all(isinstance(each, Person) for each in found)


@MODES
def test_the_whole_answer_comes_along(url: str, mode: str) -> None:
    client = make_client(url, mode)
    person, answer = client.chat.completions.create_with_completion(response_model=Person, **ASK)
    assert isinstance(person, Person)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@MODES
def test_a_plain_value(url: str, mode: str) -> None:
    ask = {**ASK, "messages": [{"role": "user", "content": QUESTION}]}
    found = make_client(url, mode).chat.completions.create(response_model=bool, **ask)
    assert found in (True, False)
