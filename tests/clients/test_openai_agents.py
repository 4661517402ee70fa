"""openai-agents: agents over both of OpenAI's routes, with tools, types and streams."""

import asyncio
from typing import Any

import pytest
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

agents = pytest.importorskip("agents")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

ROUTES = pytest.mark.parametrize("route", ["chat", "responses"])
WAYS = pytest.mark.parametrize("way", ["blocking", "async", "stream"])
# A free answer that `max_tokens` cuts is no answer to this client on /v1/responses (OpenAI's `response.incomplete`):
# a model that does not stop by itself is held to a short one.
SHORT: dict[str, Any] = {} if KNOWS else {"extra_body": {"regex": "[A-Za-z ]{1,20}"}}


def make_agent(url: str, route: str, **options: Any) -> Any:
    agents.set_tracing_disabled(True)
    import openai  # noqa: PLC0415  # what the test skips without

    client = openai.AsyncOpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=180)
    kinds = {"chat": "OpenAIChatCompletionsModel", "responses": "OpenAIResponsesModel"}
    model = getattr(agents, kinds[route])(model="sprout", openai_client=client)
    settings = agents.ModelSettings(
        temperature=0, max_tokens=200, include_usage=True, **options.pop("settings", {})
    )
    return agents.Agent(name="helper", model=model, model_settings=settings, **options)


def run(agent: Any, asked: Any, way: str) -> tuple[Any, list[Any]]:
    """The result of a run, and its events if it is streamed."""
    if way == "blocking":
        return agents.Runner.run_sync(agent, asked, max_turns=4), []
    if way == "async":
        return asyncio.run(agents.Runner.run(agent, asked, max_turns=4)), []

    async def scene() -> tuple[Any, list[Any]]:
        result = agents.Runner.run_streamed(agent, asked, max_turns=4)
        return result, [event async for event in result.stream_events()]

    return asyncio.run(scene())


@ROUTES
@WAYS
def test_an_agent_answers(url: str, route: str, way: str) -> None:
    result, events = run(make_agent(url, route, settings=SHORT), QUESTION, way)
    check_answer(result.final_output, "Paris")
    assert result.final_output
    usage = result.context_wrapper.usage
    assert usage.requests == 1
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens > 0
    deltas = [
        event.data.delta
        for event in events
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    if way == "stream":
        assert "".join(deltas) == result.final_output


@ROUTES
@WAYS
def test_an_agent_answers_in_a_type(url: str, route: str, way: str) -> None:
    result, _ = run(make_agent(url, route, output_type=Person), RECORD, way)
    assert isinstance(result.final_output, Person)
    check_person(result.final_output)


@ROUTES
@WAYS
def test_an_agent_calls_a_tool_and_its_result_is_the_answer(url: str, route: str, way: str) -> None:
    asked: list[str] = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return f"sunny in {city}"

    agent = make_agent(
        url,
        route,
        tools=[get_weather],
        tool_use_behavior="stop_on_first_tool",
        settings={"tool_choice": "required", "parallel_tool_calls": False},
    )
    result, _ = run(agent, ASK_WEATHER, way)
    assert [result.final_output] == [f"sunny in {city}" for city in asked]
    if KNOWS:
        assert asked == ["Oslo"]


@ROUTES
@WAYS
def test_an_agent_goes_on_after_a_tool(url: str, route: str, way: str) -> None:
    asked: list[str] = []

    # Then there is no tool any more: whether to call it again is the model's to know.
    @agents.function_tool(is_enabled=lambda context, agent: not asked)
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return '{"weather": "sunny"}'

    settings = {"tool_choice": "required", "parallel_tool_calls": False}
    agent = make_agent(url, route, tools=[get_weather], settings=settings, output_type=Person)
    result, _ = run(agent, RECORD, way)
    assert isinstance(result.final_output, Person)
    kinds = [item.type for item in result.new_items]
    assert kinds[:2] == ["tool_call_item", "tool_call_output_item"]
    assert kinds[-1] == "message_output_item"


@ROUTES
def test_a_conversation_goes_on(url: str, route: str) -> None:
    agent = make_agent(url, route, settings=SHORT)
    first, _ = run(agent, QUESTION, "blocking")
    more = [*first.to_input_list(), {"role": "user", "content": "What is the capital of Norway?"}]
    second, _ = run(agent, more, "blocking")
    check_answer(second.final_output, "Oslo")
    before, after = (each.context_wrapper.usage.input_tokens for each in (first, second))
    assert after > before


@ROUTES
def test_an_error_is_openais(url: str, route: str) -> None:
    import openai  # noqa: PLC0415

    agent = make_agent(url, route)
    agent.model.model = "gpt-9"
    with pytest.raises(openai.NotFoundError):
        run(agent, QUESTION, "blocking")
