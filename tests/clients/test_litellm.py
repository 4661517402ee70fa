"""litellm: chats, texts, tools, types and vectors by its own words for every provider."""

import asyncio
from typing import Any

import pytest
from tests.clients.jobs import (
    ASK_WEATHER,
    CHAT,
    KEY,
    QUESTION,
    RECORD,
    WEATHER,
    Person,
    check_answer,
    check_city,
    check_ended,
    check_person,
)

litellm = pytest.importorskip("litellm")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

WAYS = pytest.mark.parametrize("way", ["whole", "stream", "async", "async stream"])


@pytest.fixture
def where(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network
    return {
        "model": "openai/sprout",
        "api_base": url + "/v1",
        "api_key": KEY,
        "temperature": 0,
        "max_tokens": 100,
    }


def complete(where: dict[str, Any], way: str, **ask: Any) -> Any:
    """The whole answer, put together by litellm where it came in chunks."""
    ask = {**where, "messages": CHAT, **ask}
    if way == "whole":
        return litellm.completion(**ask)
    if way == "async":
        return asyncio.run(litellm.acompletion(**ask))
    ask |= {"stream": True, "stream_options": {"include_usage": True}}
    if way == "stream":
        chunks = list(litellm.completion(**ask))
    else:

        async def scene() -> list[Any]:
            return [chunk async for chunk in await litellm.acompletion(**ask)]

        chunks = asyncio.run(scene())
    return litellm.stream_chunk_builder(chunks, messages=ask["messages"])


@WAYS
def test_a_chat(where: dict[str, Any], way: str) -> None:
    answer = complete(where, way)
    check_answer(answer.choices[0].message.content, "Paris")
    check_ended(answer.choices[0].finish_reason)
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0


@WAYS
def test_a_tool_that_must_be_called(where: dict[str, Any], way: str) -> None:
    asked = [{"role": "user", "content": ASK_WEATHER}]
    options = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    choice = complete(where, way, messages=asked, **options).choices[0]
    (call,) = choice.message.tool_calls
    assert (call.function.name, choice.finish_reason) == ("get_weather", "tool_calls")
    check_city(call.function.arguments)


@WAYS
def test_an_answer_in_a_type(where: dict[str, Any], way: str) -> None:
    asked = [{"role": "user", "content": RECORD}]
    answer = complete(where, way, messages=asked, response_format=Person)
    check_person(answer.choices[0].message.content)


@WAYS
def test_fields_of_our_own_pass_through(where: dict[str, Any], way: str) -> None:
    answer = complete(where, way, extra_body={"choices": ["red", "green"]})
    assert answer.choices[0].message.content in ("red", "green")


def test_several_answers_with_logprobs(where: dict[str, Any]) -> None:
    ask = {**where, "temperature": 1, "n": 2, "logprobs": True, "top_logprobs": 2}
    answer = litellm.completion(messages=CHAT, **ask)
    assert len(answer.choices) == 2
    assert all(choice.logprobs for choice in answer.choices)


def test_a_batch_of_chats(where: dict[str, Any]) -> None:
    answers = litellm.batch_completion(messages=[CHAT] * 4, **where)
    assert len({answer.choices[0].message.content for answer in answers}) == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_a_text_is_continued(where: dict[str, Any], streamed: bool) -> None:
    ask = {**where, "model": "text-completion-openai/sprout", "prompt": "1 2 3"}
    answer = litellm.text_completion(**ask, stream=streamed)
    chunks = list(answer) if streamed else [answer]
    check_answer("".join(chunk.choices[0].text or "" for chunk in chunks if chunk.choices))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response(where: dict[str, Any], streamed: bool) -> None:
    ask = {name: where[name] for name in ("model", "api_base", "api_key", "temperature")}
    made = litellm.responses(input=QUESTION, max_output_tokens=60, stream=streamed, **ask)
    if streamed:
        made = [event for event in made if event.type.startswith("response.")][-1].response
    check_answer(made.output[0].content[0].text, "Paris")


def test_vectors(where: dict[str, Any]) -> None:
    ask = {name: where[name] for name in ("model", "api_base", "api_key")}
    found = litellm.embedding(input=["a cat", "a dog"], **ask)
    assert [len(each["embedding"]) for each in found.data] == [256, 256]


def test_an_error_has_a_class(where: dict[str, Any]) -> None:
    with pytest.raises(litellm.exceptions.BadRequestError):
        litellm.completion(messages=CHAT, n=1000, **where)
    with pytest.raises(litellm.exceptions.NotFoundError):
        litellm.completion(messages=CHAT, **{**where, "model": "openai/gpt-9"})
    with pytest.raises(litellm.exceptions.AuthenticationError):
        litellm.completion(messages=CHAT, **{**where, "api_key": "wrong"})
