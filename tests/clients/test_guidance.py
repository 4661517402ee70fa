"""guidance: programs over a server, by its client of OpenAI's API."""

import json
from typing import Any

import pytest
from tests.clients.jobs import KEY, KNOWS, QUESTION, RECORD, Person, check_answer, check_person

guidance = pytest.importorskip("guidance")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


def make_model(url: str, **options: Any) -> Any:
    return guidance.models.OpenAI(
        "sprout", base_url=url + "/v1", api_key=KEY, echo=False, max_retries=0, **options
    )


def ask(url: str, text: str, made: Any) -> Any:
    state = make_model(url)
    with guidance.user():
        state += text
    with guidance.assistant():
        state += made
    return state


@pytest.mark.parametrize("temperature", [0.0001, 1.0])
def test_a_free_answer(url: str, temperature: float) -> None:
    made = guidance.gen("answer", max_tokens=60, temperature=temperature)
    state = ask(url, QUESTION, made)
    check_answer(state["answer"], *(["Paris"] if temperature < 1 else []))
    assert state["answer"]
    assert state["answer"] in str(state)


def test_an_answer_in_a_type(url: str) -> None:
    state = ask(url, RECORD, guidance.json("record", schema=Person, temperature=0.0001))
    check_person(state["record"])


def test_an_answer_under_a_schema(url: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    state = ask(url, QUESTION, guidance.json("found", schema=schema, max_tokens=60))
    assert isinstance(json.loads(state["found"])["n"], int)


def test_an_answer_in_json(url: str) -> None:
    state = ask(url, QUESTION, guidance.json("found", max_tokens=60))
    assert isinstance(json.loads(state["found"]), dict)


def test_a_chat_goes_on(url: str) -> None:
    state = make_model(url)
    for country, city in (("France", "Paris"), ("Norway", "Oslo")):
        with guidance.user():
            state += f"What is the capital of {country}?"
        with guidance.assistant():
            state += guidance.gen(country, max_tokens=40, temperature=0.0001)
        check_answer(state[country], city)


def test_tokens_are_counted(url: str) -> None:
    state = ask(url, QUESTION, guidance.gen("answer", max_tokens=20))
    usage = state._get_usage()
    assert usage.input_tokens > 0
    assert 0 < usage.forward_passes <= 20


def test_a_function_is_called(url: str) -> None:
    called: list[str] = []

    def get_weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return "sunny"

    made = guidance.gen(tools=[get_weather])
    ask(url, "What is the weather in Oslo?", made)
    # guidance leaves the choice to the model (tool_choice auto).
    assert all(isinstance(city, str) for city in called)
    if KNOWS:
        assert called[0] == "Oslo"


def test_an_error_is_openais(url: str) -> None:
    import openai  # noqa: PLC0415

    state = guidance.models.OpenAI("gpt-9", base_url=url + "/v1", api_key=KEY, echo=False)
    with guidance.user():
        state += QUESTION
    with pytest.raises(openai.NotFoundError), guidance.assistant():
        state += guidance.gen("answer")
