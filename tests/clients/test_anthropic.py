"""The anthropic package: messages, streams, tools and counts."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.clients.jobs import ASK_WEATHER, CHAT, CITY, KEY, check_answer, check_city, check_ended

anthropic = pytest.importorskip("anthropic")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

TOOL = {"name": "get_weather", "description": "The weather in a city.", "input_schema": CITY}
# Its newer releases leave the temperature to extra_body.
ASK: dict[str, Any] = {
    "model": "sprout",
    "messages": CHAT,
    "max_tokens": 100,
    "extra_body": {"temperature": 0},
}
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])


class Caller:
    """One client, blocking or not."""

    def __init__(self, url: str, blocking: bool) -> None:
        kind = anthropic.Anthropic if blocking else anthropic.AsyncAnthropic
        self.client = kind(base_url=url, api_key=KEY, max_retries=0, timeout=180)
        self.runner = None if blocking else asyncio.Runner()

    def get(self, made: Any) -> Any:
        return made if self.runner is None else self.runner.run(_awaited(made))

    def message(self, streamed: bool, **ask: Any) -> tuple[Any, list[Any]]:
        """The message, and the events it came in."""
        ask = {**ASK, **ask}
        if not streamed:
            return self.get(self.client.messages.create(**ask)), []
        if self.runner is not None:
            return self.runner.run(_final(self.client.messages.stream(**ask)))
        with self.client.messages.stream(**ask) as stream:
            return (events := list(stream), stream.get_final_message())[1], events


async def _awaited(made: Any) -> Any:
    return await made


async def _final(manager: Any) -> tuple[Any, list[Any]]:
    async with manager as stream:
        events = [event async for event in stream]
        return await stream.get_final_message(), events


@pytest.fixture(params=["blocking", "async"])
def caller(url: str, request: Any) -> Iterator[Caller]:
    made = Caller(url, request.param == "blocking")
    yield made
    made.get(made.client.close())
    if made.runner is not None:
        made.runner.close()


@STREAMED
def test_a_message(caller: Caller, streamed: bool) -> None:
    message, events = caller.message(streamed)
    check_answer(message.content[0].text, "Paris")
    check_ended(message.stop_reason, good="end_turn")
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 5
    assert 0 < message.usage.output_tokens <= 100
    if streamed:
        texts = [event.text for event in events if event.type == "text"]
        assert "".join(texts) == message.content[0].text
        assert (events[0].type, events[-1].type) == ("message_start", "message_stop")


@STREAMED
@pytest.mark.parametrize("kind", ["tool", "any"])
def test_a_tool_must_be_used(caller: Caller, streamed: bool, kind: str) -> None:
    choice = {"type": kind, **({"name": "get_weather"} if kind == "tool" else {})}
    message, _ = caller.message(
        streamed,
        messages=[{"role": "user", "content": ASK_WEATHER}],
        tools=[TOOL],
        tool_choice={**choice, "disable_parallel_tool_use": True},
    )
    assert message.stop_reason == "tool_use"
    (block,) = message.content
    assert (block.type, block.name) == ("tool_use", "get_weather")
    check_city(block.input)


@STREAMED
def test_a_tools_result_is_read(caller: Caller, streamed: bool) -> None:
    turns: list[Any] = [{"role": "user", "content": ASK_WEATHER}]
    choice = {"type": "tool", "name": "get_weather"}
    first, _ = caller.message(False, messages=turns, tools=[TOOL], tool_choice=choice)
    block = first.content[0]
    result = {"type": "tool_result", "tool_use_id": block.id, "content": '{"weather": "sunny"}'}
    turns += [
        {"role": "assistant", "content": [block.model_dump()]},
        {"role": "user", "content": [result]},
    ]
    last, _ = caller.message(streamed, messages=turns, tools=[TOOL], tool_choice={"type": "none"})
    check_answer(last.content[0].text, "sunny")


@STREAMED
def test_a_stop_sequence_is_named(caller: Caller, streamed: bool) -> None:
    extra = {"temperature": 0, "regex": "[a-z]{4}, STOP"}
    message, _ = caller.message(streamed, stop_sequences=[" STOP"], extra_body=extra)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " STOP")
    assert len(message.content[0].text) == 5


@STREAMED
def test_a_system_prompt_counts(caller: Caller, streamed: bool) -> None:
    plain, _ = caller.message(streamed)
    told, _ = caller.message(streamed, system=[{"type": "text", "text": "You help with maps."}])
    sizes = [m.usage.input_tokens + m.usage.cache_read_input_tokens for m in (plain, told)]
    assert sizes[1] > sizes[0]


def test_tokens_are_counted_as_they_are_billed(caller: Caller) -> None:
    counted = caller.get(caller.client.messages.count_tokens(model="sprout", messages=CHAT))
    message, _ = caller.message(False)
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        ({"model": "claude-9"}, "NotFoundError"),
        ({"max_tokens": 0}, "BadRequestError"),
        ({"messages": [{"role": "king", "content": "x"}]}, "BadRequestError"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "BadRequestError"),
    ],
)
def test_errors_are_anthropics(caller: Caller, ask: dict[str, Any], kind: str) -> None:
    with pytest.raises(getattr(anthropic, kind)) as caught:
        caller.message(False, **ask)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["message"]
