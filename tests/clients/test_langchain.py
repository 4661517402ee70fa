"""langchain-openai: chats, tools, types and vectors, blocking and not, on both of OpenAI's routes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.clients.jobs import (
    ASK_WEATHER,
    KEY,
    QUESTION,
    RECORD,
    WEATHER,
    Person,
    check_answer,
    check_city,
    check_person,
)

module = pytest.importorskip("langchain_openai")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

WAYS = pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream"])
LOOP: list[asyncio.Runner] = []
ROUTES = pytest.mark.parametrize("route", ["chat", "responses"])


def make_model(url: str, route: str = "chat", **options: Any) -> Any:
    settings = {"temperature": 0, "max_tokens": 200, "max_retries": 0, "timeout": 180, **options}
    where = {"model": "sprout", "base_url": url + "/v1", "api_key": KEY}
    return module.ChatOpenAI(**where, use_responses_api=route == "responses", **settings)


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[None]:
    """One loop for all: langchain keeps its connections from one model to the next."""
    with asyncio.Runner() as runner:
        LOOP.append(runner)
        yield


def run(chain: Any, way: str, asked: Any) -> Any:
    """What a chain gives, chunks put together."""
    if way == "invoke":
        return chain.invoke(asked)
    if way == "ainvoke":
        return LOOP[0].run(chain.ainvoke(asked))
    if way == "stream":
        chunks = list(chain.stream(asked))
    else:

        async def scene() -> list[Any]:
            return [chunk async for chunk in chain.astream(asked)]

        chunks = LOOP[0].run(scene())
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk if hasattr(whole, "usage_metadata") else chunk
    return whole


@ROUTES
@WAYS
def test_a_chat(url: str, route: str, way: str) -> None:
    answer = run(make_model(url, route, stream_usage=True), way, QUESTION)
    check_answer(answer.text if isinstance(answer.text, str) else answer.text(), "Paris")
    usage = answer.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


@ROUTES
@WAYS
def test_a_tool_that_must_be_called(url: str, route: str, way: str) -> None:
    options = {"tool_choice": "get_weather", "parallel_tool_calls": False}
    chain = make_model(url, route).bind_tools([WEATHER], **options)
    (call,) = run(chain, way, ASK_WEATHER).tool_calls
    assert call["name"] == "get_weather"
    check_city(call["args"])


@ROUTES
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_answer_in_a_type(url: str, route: str, way: str, method: str) -> None:
    chain = make_model(url, route).with_structured_output(Person, method=method)
    person = run(chain, way, RECORD)
    assert isinstance(person, Person)
    check_person(person)


def test_a_batch(url: str) -> None:
    answers = make_model(url).batch([QUESTION] * 4)
    assert len({answer.content for answer in answers}) == 1


def test_logprobs_and_a_stop(url: str) -> None:
    model = make_model(url, logprobs=True, top_logprobs=2, stop=["e"])
    answer = model.invoke(QUESTION)
    assert "e" not in answer.content
    tokens = answer.response_metadata["logprobs"]["content"]
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)


@ROUTES
def test_a_tools_result_is_read(url: str, route: str) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage  # noqa: PLC0415

    options = {"tool_choice": "get_weather", "parallel_tool_calls": False}
    model = make_model(url, route)
    turns: list[Any] = [HumanMessage(ASK_WEATHER)]
    turns.append(model.bind_tools([WEATHER], **options).invoke(turns))
    (call,) = turns[-1].tool_calls
    turns.append(ToolMessage('{"weather": "sunny"}', tool_call_id=call["id"]))
    last = model.bind_tools([WEATHER], tool_choice="none").invoke(turns)
    check_answer(last.text if isinstance(last.text, str) else last.text(), "sunny")
    assert not last.tool_calls


def test_a_text_is_continued(url: str) -> None:
    where = {"model": "sprout", "base_url": url + "/v1", "api_key": KEY}
    model = module.OpenAI(**where, temperature=0, max_tokens=20)
    assert "".join(model.stream("1 2 3")) == model.invoke("1 2 3")


def test_vectors(url: str) -> None:
    where = {"model": "sprout", "base_url": url + "/v1", "api_key": KEY}
    model = module.OpenAIEmbeddings(**where, check_embedding_ctx_length=False)
    assert [len(each) for each in model.embed_documents(["a cat", "a dog"])] == [256, 256]
    assert len(LOOP[0].run(model.aembed_query("a cat"))) == 256


@ROUTES
def test_an_error_is_openais(url: str, route: str) -> None:
    import openai  # noqa: PLC0415

    with pytest.raises(openai.BadRequestError) as caught:
        make_model(url, route, temperature=9).invoke(QUESTION)
    assert caught.value.param == "temperature"
