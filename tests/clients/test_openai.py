"""The openai package, as its own documentation uses it."""

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel
from tests.clients.conftest import KEY, MAY_RUN_ON
from tests.clients.jobs import CHAT, QUESTION, RECORD, WEATHER

openai = pytest.importorskip("openai")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


class Person(BaseModel):
    name: str
    age: int
    city: str


@pytest.fixture
def client(url: str) -> Any:
    with openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=180) as made:
        yield made


def test_chat(client: Any) -> None:
    answer = client.chat.completions.create(
        model="sprout", messages=CHAT, temperature=0, max_tokens=100
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop" or MAY_RUN_ON
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens is not None


def test_stream_equals_whole(client: Any) -> None:
    ask = {"model": "sprout", "messages": CHAT, "temperature": 0, "max_tokens": 100}
    whole = client.chat.completions.create(**ask)
    stream = client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_several_answers_stops_and_seeds(client: Any) -> None:
    ask = {"model": "sprout", "messages": CHAT, "n": 3, "seed": 5, "max_tokens": 12}
    first = client.chat.completions.create(**ask, temperature=1.5)
    second = client.chat.completions.create(**ask, temperature=1.5)
    texts = [choice.message.content for choice in first.choices]
    assert len(texts) == 3
    assert texts == [choice.message.content for choice in second.choices]
    stopped = client.completions.create(
        model="sprout", prompt="1 2 3 4", max_tokens=30, stop=["\n"], temperature=0
    )
    assert "\n" not in stopped.choices[0].text


def test_logprobs(client: Any) -> None:
    answer = client.chat.completions.create(
        model="sprout",
        messages=CHAT,
        temperature=0,
        max_tokens=100,
        logprobs=True,
        top_logprobs=3,
    )
    tokens = answer.choices[0].logprobs.content
    joined = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
    assert joined == answer.choices[0].message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens)


def test_parse_gives_a_model_of_pydantic(client: Any) -> None:
    answer = client.chat.completions.parse(
        model="sprout",
        messages=[{"role": "user", "content": RECORD}],
        response_format=Person,
        temperature=0,
        max_tokens=200,
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_a_tool_loop(client: Any) -> None:
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    ask = {"model": "sprout", "tools": [WEATHER], "temperature": 0, "max_tokens": 200}
    first = client.chat.completions.create(messages=messages, tool_choice="required", **ask)
    assert first.choices[0].finish_reason == "tool_calls"
    call = first.choices[0].message.tool_calls[0]
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    messages += [
        first.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny"}'},
    ]
    last = client.chat.completions.create(messages=messages, tool_choice="none", **ask)
    assert last.choices[0].message.tool_calls is None


def test_a_streamed_tool_call_is_put_together(client: Any) -> None:
    with client.chat.completions.stream(
        model="sprout",
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        temperature=0,
        max_tokens=200,
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}


def test_responses_go_on_from_each_other(client: Any) -> None:
    ask = {"model": "sprout", "temperature": 0, "max_output_tokens": 100}
    first = client.responses.create(input=QUESTION, **ask)
    assert first.output_text
    second = client.responses.create(input="And of Norway?", previous_response_id=first.id, **ask)
    assert second.usage.input_tokens > first.usage.input_tokens
    with client.responses.stream(input=QUESTION, **ask) as stream:
        events = list(stream)
    # The helper's get_final_response() knows no answer that was cut by max_output_tokens.
    assert events[-1].type == "response.completed" or MAY_RUN_ON
    assert events[-1].response.output_text == first.output_text


def test_responses_parse(client: Any) -> None:
    answer = client.responses.parse(
        model="sprout", input=RECORD, text_format=Person, temperature=0, max_output_tokens=200
    )
    assert isinstance(answer.output_parsed, Person)


def test_embeddings_and_models(client: Any) -> None:
    vectors = client.embeddings.create(model="sprout", input=["a cat", "a dog"])
    assert len(vectors.data) == 2
    assert sum(x * x for x in vectors.data[0].embedding) == pytest.approx(1, abs=1e-3)
    assert client.models.list().data[0].id == "sprout"
    assert client.models.retrieve("sprout").object == "model"


def test_errors_are_the_clients_own(client: Any, url: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=CHAT)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="sprout", messages=CHAT, n=1000)
    assert caught.value.param == "n"
    stranger = openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_many_at_once(url: str) -> None:
    async def scene() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=KEY, timeout=120) as client:
            ask = {"model": "sprout", "messages": CHAT, "temperature": 0, "max_tokens": 20}
            made = await asyncio.gather(*(client.chat.completions.create(**ask) for _ in range(32)))
            return [answer.choices[0].message.content for answer in made]

    assert len(set(asyncio.run(scene()))) == 1
