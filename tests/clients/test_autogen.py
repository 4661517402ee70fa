"""autogen: its client of OpenAI's API, and an assistant with tools."""

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
    check_city,
    check_ended,
    check_person,
)

pytest.importorskip("autogen_ext")
from autogen_agentchat.agents import AssistantAgent
from autogen_core import CancellationToken
from autogen_core.models import SystemMessage, UserMessage
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

INFO = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "family": "unknown",
    "structured_output": True,
    "multiple_system_messages": True,
}
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])


async def get_weather(city: str) -> str:
    """The weather in a city."""
    return '{"weather": "sunny"}'


TOOL = FunctionTool(get_weather, description="The weather in a city.", strict=True)


def make_client(url: str, **options: Any) -> Any:
    return OpenAIChatCompletionClient(
        model="sprout",
        base_url=url + "/v1",
        api_key=KEY,
        model_info=INFO,
        temperature=0,
        max_tokens=200,
        **options,
    )


def ask(url: str, text: str, streamed: bool, **options: Any) -> tuple[Any, list[str]]:
    """The result of one request, and the texts it came in."""

    async def scene() -> tuple[Any, list[str]]:
        client = make_client(url)
        turns = [SystemMessage(content="You help."), UserMessage(content=text, source="user")]
        try:
            if not streamed:
                return await client.create(turns, **options), []
            *texts, result = [each async for each in client.create_stream(turns, **options)]
            return result, texts
        finally:
            await client.close()

    return asyncio.run(scene())


@STREAMED
def test_an_answer(url: str, streamed: bool) -> None:
    result, texts = ask(url, QUESTION, streamed)
    check_answer(result.content, "Paris")
    check_ended(result.finish_reason)
    assert result.usage.completion_tokens > 0 or streamed
    if streamed:
        assert "".join(texts) == result.content


@STREAMED
def test_an_answer_in_a_type(url: str, streamed: bool) -> None:
    result, _ = ask(url, RECORD, streamed, json_output=Person)
    check_person(result.content)


@STREAMED
def test_an_answer_in_json(url: str, streamed: bool) -> None:
    import json  # noqa: PLC0415

    result, _ = ask(url, RECORD, streamed, json_output=True)
    assert isinstance(json.loads(result.content), dict)


@STREAMED
@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_tool_that_must_be_called(url: str, streamed: bool, choice: str) -> None:
    options = {"tool_choice": "required" if choice == "required" else TOOL}
    options |= {"extra_create_args": {"parallel_tool_calls": False}}
    result, _ = ask(url, ASK_WEATHER, streamed, tools=[TOOL], **options)
    (call,) = result.content
    assert call.name == "get_weather"
    assert result.finish_reason == "function_calls"
    check_city(call.arguments)


@STREAMED
def test_an_agent_answers(url: str, streamed: bool) -> None:
    async def scene() -> Any:
        client = make_client(url)
        agent = AssistantAgent("helper", client, model_client_stream=streamed, system_message=None)
        result = await agent.run(task=QUESTION)
        await client.close()
        return result.messages[-1]

    check_answer(asyncio.run(scene()).content, "Paris")


@STREAMED
def test_an_agent_answers_in_a_type(url: str, streamed: bool) -> None:
    async def scene() -> Any:
        client = make_client(url)
        agent = AssistantAgent(
            "helper",
            client,
            model_client_stream=streamed,
            system_message=None,
            output_content_type=Person,
        )
        result = await agent.run(task=RECORD)
        await client.close()
        return result.messages[-1]

    check_person(asyncio.run(scene()).content)


def test_an_agent_uses_a_tool(url: str) -> None:
    async def scene() -> Any:
        client = make_client(url, parallel_tool_calls=False)
        agent = AssistantAgent("helper", client, tools=[TOOL], system_message=None)
        result = await agent.run(task=ASK_WEATHER)
        await client.close()
        return result.messages

    messages = asyncio.run(scene())
    if KNOWS:
        assert "sunny" in messages[-1].content
    assert messages[-1].source == "helper"


def test_a_request_is_cancelled(url: str) -> None:
    async def scene() -> None:
        client = make_client(url, extra_body={"ignore_eos": True})
        token = CancellationToken()
        turns = [UserMessage(content=QUESTION, source="user")]
        asked = asyncio.create_task(
            client.create(turns, cancellation_token=token, extra_create_args={"max_tokens": 3000})
        )
        await asyncio.sleep(0.2)
        token.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await client.close()

    asyncio.run(scene())


def test_tokens_are_counted_over_requests(url: str) -> None:
    async def scene() -> Any:
        client = make_client(url)
        turns = [UserMessage(content=QUESTION, source="user")]
        results = [await client.create(turns) for _ in range(2)]
        total = client.total_usage()
        await client.close()
        return total.completion_tokens, sum(each.usage.completion_tokens for each in results)

    total, summed = asyncio.run(scene())
    assert total == summed > 0
