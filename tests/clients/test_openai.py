"""The openai package, as its own documentation uses it: blocking and not, whole and streamed."""

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.clients.jobs import (
    ASK_WEATHER,
    CHAT,
    CITY,
    KEY,
    KNOWS,
    QUESTION,
    RECORD,
    WEATHER,
    Person,
    check_answer,
    check_city,
    check_ended,
    check_person,
)

openai = pytest.importorskip("openai")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

ASK: dict[str, Any] = {"model": "sprout", "messages": CHAT, "temperature": 0, "max_tokens": 100}
TWO_TOOLS = [
    WEATHER,
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "parameters": {"type": "object", "properties": {}},
            "strict": True,
        },
    },
]


class Caller:
    """One client, blocking or not, in the same words: `get` an answer, `all` of a stream, the `final` of a helper."""

    def __init__(self, url: str, blocking: bool, **options: Any) -> None:
        options = {
            "base_url": url + "/v1",
            "api_key": KEY,
            "max_retries": 0,
            "timeout": 180,
            **options,
        }
        self.client = (openai.OpenAI if blocking else openai.AsyncOpenAI)(**options)
        self._runner = None if blocking else asyncio.Runner()

    def get(self, made: Any) -> Any:
        """What a call gives."""
        return made if self._runner is None else self._runner.run(_awaited(made))

    def all(self, made: Any) -> list[Any]:
        """Every event of a stream."""
        return list(made) if self._runner is None else self._runner.run(_drained(made))

    def final(self, manager: Any, name: str) -> tuple[list[Any], Any]:
        """The events of a `.stream()` helper, and what it puts together."""
        if self._runner is not None:
            return self._runner.run(_final(manager, name))
        with manager as stream:
            return list(stream), getattr(stream, name)()

    def close(self) -> None:
        """No connection stays open."""
        self.get(self.client.close())
        if self._runner is not None:
            self._runner.close()


async def _awaited(made: Any) -> Any:
    return await made


async def _drained(made: Any) -> list[Any]:
    return [event async for event in await made]


async def _final(manager: Any, name: str) -> tuple[list[Any], Any]:
    async with manager as stream:
        return [event async for event in stream], await getattr(stream, name)()


@pytest.fixture(params=["blocking", "async"])
def caller(url: str, request: Any) -> Iterator[Caller]:
    made = Caller(url, request.param == "blocking")
    yield made
    made.close()


def chat(caller: Caller, streamed: bool, **ask: Any) -> tuple[Any, Any]:
    """The choice of a chat and its usage, whole or put together from chunks.

    Not by the client's `.stream()`, which takes an answer that was cut for an error: untrained weights end none.
    """
    create = caller.client.chat.completions.create
    if not streamed:
        answer = caller.get(create(**{**ASK, **ask}))
        return answer.choices[0], answer.usage
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = caller.all(create(**{**ASK, **ask}, **options))
    return _put_together([chunk.choices[0] for chunk in chunks]), last.usage


def _put_together(choices: list[Any]) -> Any:
    """The whole choice of a stream's deltas."""
    calls: list[Any] = []
    for call in [call for choice in choices for call in choice.delta.tool_calls or ()]:
        if call.index == len(calls):
            calls.append(call)
        else:
            calls[call.index].function.arguments += call.function.arguments
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    message = {
        "role": choices[0].delta.role,
        "content": "".join(choice.delta.content or "" for choice in choices),
        "tool_calls": calls or None,
    }
    return SimpleNamespace(
        message=SimpleNamespace(**message),
        logprobs=SimpleNamespace(content=tokens),
        finish_reason=choices[-1].finish_reason,
    )


STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])


# ------------------------------------------------------------------ chat


@STREAMED
def test_chat(caller: Caller, streamed: bool) -> None:
    choice, usage = chat(caller, streamed)
    check_answer(choice.message.content, "Paris")
    check_ended(choice.finish_reason)
    assert choice.message.role == "assistant"
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
    assert usage.completion_tokens_details.jumped_tokens == 0
    assert 0 < usage.completion_tokens <= 100


def test_stream_equals_whole(caller: Caller) -> None:
    create = caller.client.chat.completions.create
    whole = caller.get(create(**ASK))
    chunks = caller.all(create(**ASK, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


@STREAMED
@pytest.mark.parametrize("word", ["Ünïcödé", "日本語のテスト", "🙂🙃 family 👩‍👩‍👧"])
def test_no_character_is_ever_cut(caller: Caller, streamed: bool, word: str) -> None:
    choice, _ = chat(caller, streamed, extra_body={"choices": [word, word + "!"]})
    assert choice.message.content in (word, word + "!")


@STREAMED
def test_several_answers_have_seeds_of_their_own(caller: Caller, streamed: bool) -> None:
    ask = {**ASK, "n": 3, "seed": 5, "max_tokens": 12, "temperature": 1.5}
    create = caller.client.chat.completions.create

    def texts() -> list[str]:
        if not streamed:
            return [each.message.content for each in caller.get(create(**ask)).choices]
        found = ["", "", ""]
        for chunk in caller.all(create(**ask, stream=True)):
            for choice in chunk.choices:
                found[choice.index] += choice.delta.content or ""
        return found

    first = texts()
    assert len(first) == 3
    assert len(set(first)) > 1
    assert texts() == first


@STREAMED
def test_a_stop_ends_the_answer_and_is_not_part_of_it(caller: Caller, streamed: bool) -> None:
    held = {"regex": "[a-z]{4}, STOP [a-z]{8}"}
    choice, _ = chat(caller, streamed, stop=[" STOP"], extra_body=held)
    assert len(choice.message.content) == 5
    assert choice.message.content.endswith(",")
    assert choice.finish_reason == "stop"


@STREAMED
def test_max_tokens_cuts_a_free_answer(caller: Caller, streamed: bool) -> None:
    choice, usage = chat(caller, streamed, max_tokens=2, extra_body={"ignore_eos": True})
    assert choice.finish_reason == "length"
    assert usage.completion_tokens == 2


@STREAMED
@pytest.mark.parametrize("top", [0, 3, 20])
def test_logprobs(caller: Caller, streamed: bool, top: int) -> None:
    choice, usage = chat(caller, streamed, logprobs=True, top_logprobs=top)
    tokens = choice.logprobs.content
    joined = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
    assert joined == choice.message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == top for token in tokens)
    if top:
        # Greedy: each token is the likeliest.
        assert all(token.logprob == token.top_logprobs[0].logprob for token in tokens)
    assert len(tokens) in (usage.completion_tokens, usage.completion_tokens - 1)


def test_a_bias_decides(caller: Caller) -> None:
    ids = caller.get(caller.client.post("/../tokenize", body={"prompt": "Z"}, cast_to=object))[
        "tokens"
    ]
    choice, _ = chat(caller, False, logit_bias={str(ids[-1]): 100}, max_tokens=3)
    assert "Z" in choice.message.content


# ------------------------------------------------------------------ structured


@STREAMED
def test_parse_gives_a_model_of_pydantic(caller: Caller, streamed: bool) -> None:
    ask = {**ASK, "messages": [{"role": "user", "content": RECORD}], "response_format": Person}
    made = caller.client.chat.completions
    if streamed:
        _, answer = caller.final(made.stream(**ask), "get_final_completion")
    else:
        answer = caller.get(made.parse(**ask))
    person = answer.choices[0].message.parsed
    assert isinstance(person, Person)
    check_person(person)


FORMATS: dict[str, tuple[dict[str, Any], Any]] = {
    "json_object": ({"response_format": {"type": "json_object"}}, json.loads),
    "json_schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}}},
        lambda text: check_keys(text, "city"),
    ),
    "text": ({"response_format": {"type": "text"}}, check_answer),
    "regex": (
        {"extra_body": {"regex": "[0-9]{3}"}},
        lambda text: _demand(len(str(int(text))) <= 3),
    ),
    "ebnf": ({"extra_body": {"ebnf": 'root ::= "a" | "b"'}}, lambda text: _demand(text in "ab")),
    "choices": (
        {"extra_body": {"choices": ["red", "green"]}},
        lambda text: _demand(text in ("red", "green")),
    ),
    "structured_outputs": (
        {"extra_body": {"structured_outputs": {"choice": ["x", "y"]}}},
        lambda text: _demand(text in "xy"),
    ),
    "guided_json": (
        {"extra_body": {"guided_json": CITY}},
        lambda text: check_keys(text, "city"),
    ),
}


def _demand(holds: bool) -> None:
    assert holds


def check_keys(text: str, *keys: str) -> None:
    assert tuple(json.loads(text)) == keys


@STREAMED
@pytest.mark.parametrize("name", FORMATS)
def test_every_constraint_holds(caller: Caller, streamed: bool, name: str) -> None:
    ask, check = FORMATS[name]
    choice, usage = chat(caller, streamed, temperature=1, seed=3, **ask)
    check(choice.message.content)
    if name != "text":
        assert choice.finish_reason == "stop"
        assert usage.completion_tokens_details.jumped_tokens <= usage.completion_tokens


@STREAMED
@pytest.mark.parametrize("max_tokens", [24, 48])
def test_an_answer_under_a_schema_is_closed_in_time(
    caller: Caller, streamed: bool, max_tokens: int
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY, "strict": True}}
    asked = [{"role": "user", "content": "Name a city with the longest name you know."}]
    choice, usage = chat(
        caller, streamed, messages=asked, response_format=form, max_tokens=max_tokens, temperature=2
    )
    check_keys(choice.message.content, "city")
    assert choice.finish_reason == "stop"
    assert usage.completion_tokens <= max_tokens


# ------------------------------------------------------------------ tools


@STREAMED
@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_tool_that_must_be_called_is(caller: Caller, streamed: bool, choice: str) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    answer, _ = chat(
        caller,
        streamed,
        messages=[{"role": "user", "content": ASK_WEATHER}],
        tools=[WEATHER] if choice == "required" else TWO_TOOLS,
        tool_choice="required" if choice == "required" else named,
        parallel_tool_calls=False,
    )
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    assert call.id.startswith("call_")
    check_city(call.function.arguments)


def test_the_clients_own_helper_puts_a_call_together(caller: Caller) -> None:
    forced = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    manager = caller.client.chat.completions.stream(**ASK, **forced)
    events, answer = caller.final(manager, "get_final_completion")
    (call,) = answer.choices[0].message.tool_calls
    check_keys(call.function.arguments, "city")
    assert call.function.parsed_arguments == json.loads(call.function.arguments)
    assert [e.name for e in events if e.type == "tool_calls.function.arguments.done"] == [
        "get_weather"
    ]


@STREAMED
def test_tools_that_may_not_be_called_are_not(caller: Caller, streamed: bool) -> None:
    answer, _ = chat(caller, streamed, tools=[WEATHER], tool_choice="none")
    assert not answer.message.tool_calls
    check_answer(answer.message.content, "Paris")


@STREAMED
def test_a_tool_that_may_be_called_is_when_it_helps(caller: Caller, streamed: bool) -> None:
    asked = [{"role": "user", "content": ASK_WEATHER}]
    answer, _ = chat(caller, streamed, messages=asked, tools=[WEATHER])
    if KNOWS:
        assert answer.finish_reason == "tool_calls"
    for call in answer.message.tool_calls or ():
        check_city(call.function.arguments)


def test_a_streamed_call_says_id_and_name_once(caller: Caller) -> None:
    ask = {**ASK, "tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    chunks = caller.all(caller.client.chat.completions.create(**ask, stream=True))
    deltas = [
        call
        for chunk in chunks
        if chunk.choices
        for call in chunk.choices[0].delta.tool_calls or ()
    ]
    assert [delta.id is not None for delta in deltas] == [True] + [False] * (len(deltas) - 1)
    assert [delta.function.name for delta in deltas][:1] == ["get_weather"]
    assert not any(delta.function.name for delta in deltas[1:])
    assert {delta.index for delta in deltas} == {0}
    assert set(json.loads("".join(delta.function.arguments or "" for delta in deltas))) == {"city"}
    assert not any(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)


@STREAMED
def test_a_tool_loop(caller: Caller, streamed: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": ASK_WEATHER}]
    tools = {"tools": [WEATHER], "parallel_tool_calls": False}
    first, _ = chat(caller, streamed, messages=messages, tool_choice="required", **tools)
    (call,) = first.message.tool_calls
    messages += [
        {"role": "assistant", "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny"}'},
    ]
    last, _ = chat(caller, streamed, messages=messages, tool_choice="none", **tools)
    assert not last.message.tool_calls
    check_answer(last.message.content, "sunny")


# ------------------------------------------------------------------ completions


@STREAMED
def test_completions_of_many_prompts(caller: Caller, streamed: bool) -> None:
    prompts = ["1 2 3", "a b c"]
    ask = {"model": "sprout", "prompt": prompts, "max_tokens": 8, "temperature": 0, "echo": True}
    create = caller.client.completions.create
    if streamed:
        texts = ["", ""]
        for chunk in caller.all(create(**ask, stream=True)):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    else:
        texts = [choice.text for choice in caller.get(create(**ask)).choices]
    assert [text.startswith(prompt) for text, prompt in zip(texts, prompts, strict=True)] == [
        True,
        True,
    ]


def test_prompts_as_token_ids(caller: Caller) -> None:
    answer = caller.get(
        caller.client.completions.create(
            model="sprout", prompt=[[40, 41, 42], [50, 51]], max_tokens=4, temperature=0
        )
    )
    assert len(answer.choices) == 2
    assert answer.usage.prompt_tokens == 5


def test_logprobs_of_a_prompt(caller: Caller) -> None:
    answer = caller.get(
        caller.client.completions.create(
            model="sprout",
            prompt="one two three",
            max_tokens=1,
            temperature=0,
            logprobs=2,
            echo=True,
        )
    )
    found = answer.choices[0].logprobs
    assert found.token_logprobs[0] is None
    assert all(each <= 0 for each in found.token_logprobs[1:])
    assert len(found.tokens) == len(found.text_offset) == answer.usage.total_tokens
    assert "".join(found.tokens) == answer.choices[0].text


def test_a_stop_of_a_completion(caller: Caller) -> None:
    answer = caller.get(
        caller.client.completions.create(
            model="sprout", prompt="1 2 3 4", max_tokens=30, stop=["\n"], temperature=0
        )
    )
    assert "\n" not in answer.choices[0].text


# ------------------------------------------------------------------ responses


RESPOND: dict[str, Any] = {"model": "sprout", "temperature": 0, "max_output_tokens": 100}


@STREAMED
def test_a_response(caller: Caller, streamed: bool) -> None:
    create = caller.client.responses.create
    if streamed:
        events = caller.all(create(input=QUESTION, **RESPOND, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        text = "".join(each.delta for each in events if each.type == "response.output_text.delta")
        response = events[-1].response
        assert response.output_text == text
    else:
        response = caller.get(create(input=QUESTION, **RESPOND))
    check_answer(response.output_text, "Paris")
    check_ended(response.status, good="completed")
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_responses_go_on_from_each_other(caller: Caller) -> None:
    responses = caller.client.responses
    first = caller.get(responses.create(input=QUESTION, **RESPOND))
    again = {"previous_response_id": first.id, **RESPOND}
    second = caller.get(responses.create(input="And of Norway?", **again))
    assert second.usage.input_tokens > first.usage.input_tokens
    assert caller.get(responses.retrieve(first.id)).output_text == first.output_text
    caller.get(responses.delete(first.id))
    with pytest.raises(openai.NotFoundError):
        caller.get(responses.create(input="And of Italy?", **again))


@STREAMED
def test_a_response_is_parsed(caller: Caller, streamed: bool) -> None:
    ask = {**RESPOND, "input": RECORD, "text_format": Person}
    if streamed:
        _, response = caller.final(caller.client.responses.stream(**ask), "get_final_response")
    else:
        response = caller.get(caller.client.responses.parse(**ask))
    assert isinstance(response.output_parsed, Person)
    check_person(response.output_parsed)


@STREAMED
def test_a_response_calls_a_tool_and_reads_what_it_gave(caller: Caller, streamed: bool) -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": CITY, "strict": True}
    asked: list[Any] = [{"role": "user", "content": ASK_WEATHER}]
    ask = {**RESPOND, "tools": [tool], "parallel_tool_calls": False}
    create = caller.client.responses.create
    if streamed:
        events = caller.all(create(input=asked, tool_choice="required", **ask, stream=True))
        done = [e for e in events if e.type == "response.function_call_arguments.done"]
        deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
        assert [each.arguments for each in done] == ["".join(each.delta for each in deltas)]
        response = events[-1].response
    else:
        response = caller.get(create(input=asked, tool_choice="required", **ask))
    (call,) = response.output
    assert (call.type, call.name, response.status) == ("function_call", "get_weather", "completed")
    check_city(call.arguments)
    asked += [
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": '{"weather": "sunny"}'},
    ]
    last = caller.get(create(input=asked, **{**ask, "tools": [tool], "tool_choice": "none"}))
    check_answer(last.output_text, "sunny")


# ------------------------------------------------------------------ embeddings, models


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"dimensions": 16}])
def test_embeddings(caller: Caller, options: dict[str, Any]) -> None:
    vectors = caller.get(
        caller.client.embeddings.create(model="sprout", input=["a cat", "a dog"], **options)
    )
    assert [each.index for each in vectors.data] == [0, 1]
    for each in vectors.data:
        assert sum(x * x for x in each.embedding) == pytest.approx(1, abs=1e-3)
        assert len(each.embedding) == options.get("dimensions", 256)
    assert vectors.usage.total_tokens == vectors.usage.prompt_tokens > 0


def test_models(caller: Caller) -> None:
    listed = caller.get(caller.client.models.list())
    assert [each.id for each in listed.data] == ["sprout"]
    assert caller.get(caller.client.models.retrieve("sprout")).object == "model"


# ------------------------------------------------------------------ errors, hanging up, many at once


REFUSED: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "model": ({"model": "gpt-9"}, "NotFoundError", "model"),
    "n": ({"n": 1000}, "BadRequestError", "n"),
    "temperature": ({"temperature": 9}, "BadRequestError", "temperature"),
    "role": (
        {"messages": [{"role": "king", "content": "x"}]},
        "BadRequestError",
        "messages[0].role",
    ),
    "no message": ({"messages": []}, "BadRequestError", "messages"),
    "regex": ({"extra_body": {"regex": "a("}}, "BadRequestError", "regex"),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 99}, "BadRequestError", "top_logprobs"),
    "tool_choice": ({"tools": [WEATHER], "tool_choice": "no"}, "BadRequestError", "tool_choice"),
    "image": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            ]
        },
        "BadRequestError",
        "messages[0].content[0]",
    ),
    "too long": (
        {"messages": [{"role": "user", "content": "a b " * 9000}]},
        "BadRequestError",
        None,
    ),
}


@STREAMED
@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_the_clients_own(caller: Caller, streamed: bool, name: str) -> None:
    ask, kind, param = REFUSED[name]
    with pytest.raises(getattr(openai, kind)) as caught:
        caller.get(caller.client.chat.completions.create(**{**ASK, **ask}, stream=streamed))
    assert caught.value.param == param
    assert caught.value.code
    assert caught.value.request_id.startswith("req_")


def test_a_wrong_key_is_an_error_of_authentication(url: str) -> None:
    stranger = Caller(url, blocking=True, api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
        stranger.client.models.list()
    stranger.close()


def test_a_stream_that_is_left_ends_in_the_runtime_too(url: str) -> None:
    caller = Caller(url, blocking=True)
    before = _stats(caller)["requests_in_gateway"]
    with caller.client.chat.completions.create(
        **{**ASK, "max_tokens": 3000}, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
    for _ in range(100):
        if _stats(caller)["requests_in_gateway"] <= before:
            break
    assert _stats(caller)["requests_in_gateway"] <= before
    caller.close()


def _stats(caller: Caller) -> Any:
    return caller.client.get("/../server/stats", cast_to=object)


@STREAMED
def test_many_at_once(url: str, streamed: bool) -> None:
    async def one(client: Any) -> str:
        ask = {**ASK, "max_tokens": 20}
        if not streamed:
            answer = await client.chat.completions.create(**ask)
            return answer.choices[0].message.content
        chunks = await client.chat.completions.create(**ask, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])

    async def scene() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=KEY, timeout=120) as client:
            return await asyncio.gather(*(one(client) for _ in range(32)))

    assert len(set(asyncio.run(scene()))) == 1
