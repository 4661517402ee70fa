"""pydantic-ai: agents that answer in types and call tools, on both of OpenAI's routes."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel
from tests.clients.jobs import (
    ASK_WEATHER,
    KEY,
    KNOWS,
    QUESTION,
    RECORD,
    Person,
    check_answer,
    check_person,
)

pytest.importorskip("pydantic_ai")
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

ROUTES = pytest.mark.parametrize("route", [OpenAIChatModel, OpenAIResponsesModel])
WAYS = pytest.mark.parametrize("way", ["blocking", "async", "stream"])
SETTINGS: Any = {"temperature": 0, "max_tokens": 200, "timeout": 180}


class Report(BaseModel):
    """The weather in a city."""

    city: str
    weather: str


def make_agent(url: str, route: Any, **options: Any) -> Any:
    provider = OpenAIProvider(base_url=url + "/v1", api_key=KEY)
    return Agent(route("sprout", provider=provider), model_settings=SETTINGS, retries=0, **options)


def run(agent: Any, asked: str, way: str) -> tuple[Any, Any]:
    """The output of a run, and what it cost."""
    if way == "blocking":
        result = agent.run_sync(asked)
        output = result.output
    elif way == "async":
        result = asyncio.run(agent.run(asked))
        output = result.output
    else:

        async def scene() -> tuple[Any, Any]:
            async with agent.run_stream(asked) as stream:
                return await stream.get_output(), stream

        output, result = asyncio.run(scene())
    return output, result.usage() if callable(result.usage) else result.usage


@ROUTES
@WAYS
def test_an_agent_answers(url: str, route: Any, way: str) -> None:
    output, usage = run(make_agent(url, route), QUESTION, way)
    check_answer(output, "Paris")
    assert usage.requests == 1
    assert usage.input_tokens > 0
    assert 0 < usage.output_tokens <= 200


@ROUTES
@WAYS
@pytest.mark.parametrize("output", [NativeOutput, ToolOutput])
def test_an_agent_answers_in_a_type(url: str, route: Any, way: str, output: Any) -> None:
    person, _ = run(make_agent(url, route, output_type=output(Person)), RECORD, way)
    assert isinstance(person, Person)
    check_person(person)


@ROUTES
@pytest.mark.parametrize("kinds", [[bool, int], [Person, Report]], ids=["plain", "models"])
def test_an_agent_chooses_between_types(url: str, route: Any, kinds: Any) -> None:
    output, _ = run(make_agent(url, route, output_type=kinds), RECORD, "blocking")
    assert isinstance(output, tuple(kinds))


@ROUTES
def test_an_agent_calls_tools(url: str, route: Any) -> None:
    agent = make_agent(url, route)
    asked: list[str] = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    output, usage = run(agent, ASK_WEATHER, "blocking")
    assert isinstance(output, str)
    assert usage.requests == len(asked) + 1 or not KNOWS
    if KNOWS:
        assert asked[0] == "Oslo"


@ROUTES
def test_an_error_is_the_clients_own(url: str, route: Any) -> None:
    provider = OpenAIProvider(base_url=url + "/v1", api_key=KEY)
    with pytest.raises(ModelHTTPError) as caught:
        Agent(route("gpt-9", provider=provider)).run_sync(QUESTION)
    assert caught.value.status_code == 404
