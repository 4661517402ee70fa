"""haystack: chat generators, embedders and pipelines."""

import asyncio
import json
from typing import Any

import pytest
from tests.clients.jobs import (
    ASK_WEATHER,
    CITY,
    KEY,
    QUESTION,
    RECORD,
    Person,
    check_answer,
    check_city,
    check_ended,
    check_person,
)

pytest.importorskip("haystack")
from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

WAYS = pytest.mark.parametrize("way", ["whole", "stream", "async"])
TOOL = Tool(
    name="get_weather",
    description="The weather in a city.",
    parameters=CITY,
    function=lambda city: "sunny",
)


def generator(url: str, **options: Any) -> Any:
    settings = {"temperature": 0, "max_completion_tokens": 200, **options.pop("settings", {})}
    return OpenAIChatGenerator(
        model="sprout",
        api_base_url=url + "/v1",
        api_key=Secret.from_token(KEY),
        generation_kwargs=settings,
        max_retries=0,
        **options,
    )


def ask(url: str, text: str, way: str, **options: Any) -> tuple[Any, list[Any]]:
    """The reply, and the chunks it came in."""
    chunks: list[Any] = []
    turns = [ChatMessage.from_user(text)]
    if way == "async":
        made = generator(url, **options)
        return asyncio.run(made.run_async(turns))["replies"][0], chunks
    callback = chunks.append if way == "stream" else None
    return generator(url, streaming_callback=callback, **options).run(turns)["replies"][0], chunks


@WAYS
def test_an_answer(url: str, way: str) -> None:
    reply, chunks = ask(url, QUESTION, way)
    check_answer(reply.text, "Paris")
    check_ended(reply.meta["finish_reason"])
    assert reply.meta["model"] == "sprout"
    if way == "stream":
        assert "".join(chunk.content for chunk in chunks) == reply.text


@WAYS
def test_an_answer_in_a_type(url: str, way: str) -> None:
    schema = {"name": "person", "schema": Person.model_json_schema(), "strict": True}
    form = {"response_format": {"type": "json_schema", "json_schema": schema}}
    reply, _ = ask(url, RECORD, way, settings=form)
    check_person(reply.text)


def test_an_answer_in_a_class(url: str) -> None:
    reply, _ = ask(url, RECORD, "whole", settings={"response_format": Person})
    check_person(reply.text)


@WAYS
def test_a_tool_that_must_be_called(url: str, way: str) -> None:
    settings = {"tool_choice": "required", "parallel_tool_calls": False}
    reply, _ = ask(url, ASK_WEATHER, way, tools=[TOOL], settings=settings)
    (call,) = reply.tool_calls
    assert call.tool_name == "get_weather"
    assert call.id
    check_city(call.arguments)


def test_a_tools_result_is_read(url: str) -> None:
    settings = {"tool_choice": "required", "parallel_tool_calls": False}
    reply, _ = ask(url, ASK_WEATHER, "whole", tools=[TOOL], settings=settings)
    result = ChatMessage.from_tool('{"weather": "sunny"}', origin=reply.tool_calls[0])
    turns = [ChatMessage.from_user(ASK_WEATHER), reply, result]
    last = generator(url, tools=[TOOL], settings={"tool_choice": "none"}).run(turns)["replies"][0]
    check_answer(last.text, "sunny")
    assert not last.tool_calls


def test_several_answers(url: str) -> None:
    made = generator(url, settings={"n": 3, "temperature": 1, "seed": 1})
    assert len(made.run([ChatMessage.from_user(QUESTION)])["replies"]) == 3


def test_logprobs(url: str) -> None:
    reply, _ = ask(url, QUESTION, "whole", settings={"logprobs": True, "top_logprobs": 2})
    tokens = reply.meta["logprobs"]["content"]
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)


def test_a_pipeline(url: str) -> None:
    template = [ChatMessage.from_user("What is the capital of {{country}}?")]
    pipeline = Pipeline()
    pipeline.add_component("prompt", ChatPromptBuilder(template=template))
    pipeline.add_component("model", generator(url))
    pipeline.connect("prompt.prompt", "model.messages")
    found = pipeline.run({"prompt": {"country": "France"}})
    check_answer(found["model"]["replies"][0].text, "Paris")


def test_embeddings_of_texts_and_documents(url: str) -> None:
    where = {"api_base_url": url + "/v1", "api_key": Secret.from_token(KEY), "model": "sprout"}
    vector = OpenAITextEmbedder(**where).run("a cat")["embedding"]
    documents = [Document(content="a cat"), Document(content="a dog")]
    found = OpenAIDocumentEmbedder(**where, progress_bar=False).run(documents)["documents"]
    assert found[0].embedding == pytest.approx(vector, abs=1e-4)
    assert found[1].embedding != pytest.approx(vector, abs=1e-4)


def test_an_error_is_openais(url: str) -> None:
    import openai  # noqa: PLC0415

    with pytest.raises(openai.BadRequestError) as caught:
        ask(url, QUESTION, "whole", settings={"n": 1000})
    assert caught.value.param == "n"
    assert json.dumps(caught.value.body)
