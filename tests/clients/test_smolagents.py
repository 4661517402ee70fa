"""smolagents: its model class, and agents that call tools."""

from typing import Any

import pytest
from tests.clients.jobs import (
    ASK_WEATHER,
    CHAT,
    KEY,
    KNOWS,
    RECORD,
    Person,
    check_answer,
    check_person,
)

smolagents = pytest.importorskip("smolagents")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

TURN = [{"role": "user", "content": [{"type": "text", "text": CHAT[0]["content"]}]}]


@pytest.fixture
def model(url: str) -> Any:
    return smolagents.OpenAIServerModel(
        model_id="sprout", api_base=url + "/v1", api_key=KEY, temperature=0, max_tokens=200
    )


def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: the city's name
    """
    return f"sunny in {city}"


@pytest.fixture
def weather() -> Any:
    return smolagents.tool(get_weather)


@pytest.mark.parametrize("messages", [CHAT, TURN], ids=["text", "parts"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_the_model_answers(model: Any, messages: Any, streamed: bool) -> None:
    turns = [smolagents.ChatMessage.from_dict(turn) for turn in messages]
    if streamed:
        deltas = list(model.generate_stream(turns))
        text = "".join(delta.content or "" for delta in deltas)
        assert deltas[-1].token_usage.output_tokens > 0
    else:
        answer = model.generate(turns)
        text = answer.content
        assert answer.token_usage.input_tokens > 0
    check_answer(text, "Paris")
    assert text


def test_a_stop_sequence_is_held(model: Any) -> None:
    turns = [smolagents.ChatMessage.from_dict(turn) for turn in CHAT]
    answer = model.generate(turns, stop_sequences=["a", "e"])
    assert not set("ae") & set(answer.content)


def test_a_format_is_held(model: Any) -> None:
    schema = {"name": "person", "schema": Person.model_json_schema(), "strict": True}
    turns = [smolagents.ChatMessage.from_dict({"role": "user", "content": RECORD})]
    answer = model.generate(turns, response_format={"type": "json_schema", "json_schema": schema})
    check_person(answer.content)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_the_model_must_call_a_tool(model: Any, weather: Any, streamed: bool) -> None:
    turns = [smolagents.ChatMessage.from_dict({"role": "user", "content": ASK_WEATHER})]
    options = {"tools_to_call_from": [weather], "parallel_tool_calls": False}
    if streamed:
        deltas = list(model.generate_stream(turns, tool_choice="required", **options))
        answer = smolagents.models.agglomerate_stream_deltas(deltas)
        (call,) = answer.tool_calls
    else:
        (call,) = model.generate(turns, **options).tool_calls
    assert call.function.name == "get_weather"
    arguments = smolagents.models.parse_json_if_needed(call.function.arguments)
    assert isinstance(arguments["city"], str)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_an_agent_calls_tools_until_it_answers(model: Any, weather: Any, streamed: bool) -> None:
    model.kwargs["parallel_tool_calls"] = False
    agent = smolagents.ToolCallingAgent(
        tools=[weather], model=model, max_steps=2, verbosity_level=0, stream_outputs=streamed
    )
    steps = list(agent.run(ASK_WEATHER, stream=True))
    calls = [each for each in steps if isinstance(each, smolagents.memory.ActionStep)]
    assert calls
    # Every step is a call of a tool there is: the tool's answer, or the agent's own.
    for step in calls:
        assert step.error is None or not KNOWS
        assert step.tool_calls
        assert {call.name for call in step.tool_calls} <= {"get_weather", "final_answer"}
    assert agent.monitor.get_total_token_counts().output_tokens > 0


def test_an_error_is_openais(url: str) -> None:
    import openai  # noqa: PLC0415

    model = smolagents.OpenAIServerModel(model_id="gpt-9", api_base=url + "/v1", api_key=KEY)
    with pytest.raises(openai.NotFoundError):
        model.generate([smolagents.ChatMessage.from_dict(turn) for turn in CHAT])
