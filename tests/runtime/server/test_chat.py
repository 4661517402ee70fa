import json
from typing import Any

import pytest
from tests.runtime.server.fake import FakeBackend, Script
from tests.runtime.server.sse import chunks, events

from branchwork.runtime.server.answers import chat_logprobs
from branchwork.runtime.wire.messages import (
    Chat,
    Choices,
    Close,
    Ebnf,
    FreeText,
    Gen,
    JsonSchema,
    JsonValue,
    Open,
    Regex,
    StructuralTags,
    Tag,
    Text,
    TokenLogprob,
)

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = b'<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def test_a_chat_is_one_frame_and_one_message(serving: Any) -> None:
    server = serving()
    answer = server.post(CHAT, {"messages": HI, "max_tokens": 5, "temperature": 0})
    choice = answer.json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "hello world", "refusal": None}
    assert choice["finish_reason"] == "stop"
    (frame,) = server.backend.frames
    assert [type(each) for each in frame] == [Open, Chat, Gen, Close]
    assert frame[2].sampling.max_tokens == 5
    assert frame[2].sampling.temperature == 0


def test_usage_adds_up_and_names_what_was_cached_and_jumped(serving: Any) -> None:
    server = serving(Script([b"abc"], jumped=True))
    usage = server.post(CHAT, {"messages": HI, "n": 3}).json()["usage"]
    assert usage["prompt_tokens"] == len("<user>hi\n<assistant>")
    assert usage["completion_tokens"] == 9
    assert usage["total_tokens"] == usage["prompt_tokens"] + 9
    assert usage["prompt_tokens_details"] == {"cached_tokens": usage["prompt_tokens"] // 2}
    assert usage["completion_tokens_details"]["jumped_tokens"] == 9


def test_answers_to_one_prompt_are_forks_of_one_branch_with_seeds_of_their_own(
    serving: Any,
) -> None:
    server = serving()
    answer = server.post(CHAT, {"messages": HI, "n": 3, "seed": 7}).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    (frame,) = server.backend.frames
    root, *forks = [each for each in frame if isinstance(each, Open)]
    assert [fork.parent for fork in forks] == [root.branch] * 3
    assert sum(isinstance(each, Chat) for each in frame) == 1
    assert [each.sampling.seed for each in frame if isinstance(each, Gen)] == [7, 8, 9]
    closed = [each.branch for each in frame if isinstance(each, Close)]
    assert sorted(closed) == sorted(each.branch for each in [root, *forks])


def test_a_stream_begins_with_the_role_and_ends_with_reason_usage_and_done(serving: Any) -> None:
    server = serving()
    body = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    answer = server.post(CHAT, body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = chunks(answer.text)
    deltas = [chunk["choices"][0]["delta"] for chunk in found[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "hello world"
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    assert [chunk["choices"][0]["finish_reason"] for chunk in found[:-2]] == [None] * 3
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["completion_tokens"] == 11
    assert all(chunk["usage"] is None for chunk in found[:-1])
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in found}) == 1


def test_each_streamed_choice_has_one_role_and_one_end(serving: Any) -> None:
    found = chunks(serving().post(CHAT, {"messages": HI, "stream": True, "n": 2}).text)
    assert "usage" not in found[0]
    for index in (0, 1):
        own = [c["choices"][0] for c in found if c["choices"][0]["index"] == index]
        assert sum("role" in choice["delta"] for choice in own) == 1
        assert [choice["finish_reason"] for choice in own].count("stop") == 1


def test_a_character_split_over_tokens_is_never_cut(serving: Any) -> None:
    text = "naïve 🦊"
    server = serving(Script([bytes([byte]) for byte in text.encode()]))
    found = chunks(server.post(CHAT, {"messages": HI, "stream": True}).text)
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in found]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_answer_that_ends_inside_a_character_shows_that_once(serving: Any) -> None:
    server = serving(Script([b"a", "é".encode()[:1]], reason="length"))
    found = chunks(server.post(CHAT, {"messages": HI, "stream": True}).text)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in found) == "a\ufffd"


@pytest.mark.parametrize(
    ("reason", "matched", "shown"),
    [("stop", None, "stop"), ("stop_string", "END", "stop"), ("length", None, "length")],
)
def test_reasons_are_openais(serving: Any, reason: str, matched: Any, shown: str) -> None:
    choice = serving(Script(reason=reason, matched=matched)).post(CHAT, {"messages": HI}).json()
    assert choice["choices"][0]["finish_reason"] == shown
    assert choice["choices"][0]["stop_reason"] == matched


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None, "regex": None}, None),
        ({"response_format": {"type": "json_object"}}, JsonValue("object")),
        ({"regex": "[a-z]+"}, Regex("[a-z]+")),
        ({"guided_regex": "a"}, Regex("a")),
        ({"structured_outputs": {"regex": "a"}}, Regex("a")),
        ({"ebnf": 'root ::= "a"'}, Ebnf('root ::= "a"')),
        ({"choices": ["yes", "no"]}, Choices(("yes", "no"))),
        ({"structured_outputs": {"choice": ["a"]}}, Choices(("a",))),
        ({"json_schema": {"type": "null"}}, JsonSchema('{"type":"null"}')),
        ({"guided_json": '{"type": "null"}'}, JsonSchema('{"type":"null"}')),
        ({"structured_outputs": {"json": True}}, JsonSchema("true")),
        (
            {
                "response_format": {
                    "type": "structural_tag",
                    "structures": [{"begin": "<a>", "schema": {"type": "null"}, "end": "</a>"}],
                    "triggers": ["<a"],
                }
            },
            StructuralTags((Tag("<a>", JsonSchema('{"type":"null"}'), "</a>"),), ("<a",)),
        ),
        ({"json_schema": True, "any_order": True}, JsonSchema("true", order="any")),
        (
            {"structured_outputs": {"json": True, "any_order": True}},
            JsonSchema("true", order="any"),
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
                }
            },
            JsonSchema('{"type":"object"}'),
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {}, "strict": False},
                }
            },
            JsonSchema("{}", "best_effort"),
        ),
    ],
)
def test_every_way_to_constrain_reaches_the_runtime(
    serving: Any, fields: dict[str, Any], constraint: Any
) -> None:
    server = serving()
    assert server.post(CHAT, {"messages": HI, **fields}).status_code == 200
    assert server.backend.frames[0][2].constraint == constraint


def test_two_constraints_are_refused(serving: Any) -> None:
    answer = serving().post(CHAT, {"messages": HI, "regex": "a", "choices": ["b"]})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "give regex or choices, not both"


def test_content_parts_are_joined_and_unknown_message_fields_ignored(serving: Any) -> None:
    server = serving()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = {"role": "user", "content": parts, "weight": 1, "cache_control": {}}
    assert server.post(CHAT, {"messages": [message]}).status_code == 200
    assert server.backend.frames[0][1].messages[0].content == "ab"


def test_an_image_is_refused_by_its_place(serving: Any) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://localhost/x.png"}}
    messages = [*HI, {"role": "user", "content": [{"type": "text", "text": "?"}, part]}]
    error = serving().post(CHAT, {"messages": messages}).json()["error"]
    assert error["param"] == "messages[1].content[1]"
    assert "image_url" in error["message"]


def test_a_request_may_not_bring_its_own_template(serving: Any) -> None:
    server = serving()
    for fields in (
        {"chat_template": "{{ 1 }}"},
        {"chat_template_kwargs": {"tokenize": True}},
        {"chat_template_kwargs": {"chat_template": "x"}},
        {"chat_template_kwargs": {"messages": "x"}},
    ):
        assert server.post(CHAT, {"messages": HI, **fields}).status_code == 400
    fields = {"chat_template_kwargs": {"enable_thinking": False}}
    assert server.post(CHAT, {"messages": HI, **fields}).status_code == 200
    assert server.backend.frames[0][1].options == '{"enable_thinking":false}'


def test_a_last_message_can_be_continued(serving: Any) -> None:
    server = serving()
    messages = [*HI, {"role": "assistant", "content": "Sure, "}]
    server.post(CHAT, {"messages": messages, "continue_final_message": True})
    _, chat, text, *_ = server.backend.frames[0]
    assert len(chat.messages) == 1
    assert text == Text(chat.branch, "Sure, ")


def test_logprobs_name_tokens_bytes_and_alternatives(serving: Any) -> None:
    server = serving(Script([b"a", "é".encode()]))
    body = {"messages": HI, "logprobs": True, "top_logprobs": 2}
    whole = server.post(CHAT, body).json()["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in whole] == [[97], [0xC3], [0xA9]]
    assert [entry["token"] for entry in whole] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in whole)
    found = chunks(server.post(CHAT, {**body, "stream": True}).text)
    streamed = [
        entry
        for chunk in found
        for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == whole


def test_token_ids_are_given_when_asked_for(serving: Any) -> None:
    server = serving()
    body = {"messages": HI, "return_token_ids": True}
    whole = server.post(CHAT, body).json()
    assert bytes(whole["choices"][0]["token_ids"]) == b"hello world"
    assert bytes(whole["prompt_token_ids"]).startswith(b"<user>hi")
    found = chunks(server.post(CHAT, {**body, "stream": True}).text)
    ids = [i for chunk in found for i in chunk["choices"][0].get("token_ids", [])]
    assert bytes(ids) == b"hello world"


def test_a_tool_whose_arguments_are_no_object_is_refused(serving: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
    answer = serving().post(CHAT, {"messages": HI, "tools": [tool]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools[0].function.parameters"


def test_tools_that_may_be_called_leave_the_text_free(serving: Any) -> None:
    server = serving()
    server.post(CHAT, {"messages": HI, "tools": [WEATHER]})
    _, chat, gen, _ = server.backend.frames[0]
    assert json.loads(chat.tools) == [WEATHER]
    assert isinstance(gen.constraint, StructuralTags)
    assert not gen.constraint.at_least_one
    assert not gen.constraint.only_tags
    assert gen.constraint.tags[0].begin == '<tool_call>\n{"name": "weather", "arguments": '


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["weather", "clock"]),
        ({"type": "function", "function": {"name": "clock"}}, ["clock"]),
    ],
)
def test_a_tool_that_must_be_called_is_demanded_by_the_grammar(
    serving: Any, choice: Any, names: list[str]
) -> None:
    server = serving()
    clock = {"type": "function", "function": {"name": "clock"}}
    server.post(CHAT, {"messages": HI, "tools": [WEATHER, clock], "tool_choice": choice})
    constraint = server.backend.frames[0][2].constraint
    assert constraint.at_least_one
    assert constraint.only_tags
    assert [tag.begin.split('"')[3] for tag in constraint.tags] == names


def test_an_answer_in_a_format_may_also_be_a_call(serving: Any) -> None:
    server = serving()
    fields = {"response_format": {"type": "json_object"}, "tools": [WEATHER]}
    server.post(CHAT, {"messages": HI, **fields})
    calls, answer = server.backend.frames[0][2].constraint.options
    assert calls.only_tags
    assert answer == JsonValue("object")


def test_tool_choice_none_shows_the_tools_and_forbids_calls(serving: Any) -> None:
    server = serving()
    fields = {"messages": HI, "tools": [WEATHER], "tool_choice": "none"}
    answer = server.post(CHAT, fields)
    assert "tool_calls" not in answer.json()["choices"][0]["message"]
    _, chat, gen, _ = server.backend.frames[0]
    assert json.loads(chat.tools) == [WEATHER]
    assert gen.constraint == FreeText(("<tool_call>",))
    server.post(CHAT, {**fields, "response_format": {"type": "json_object"}})
    assert server.backend.frames[1][2].constraint == JsonValue("object")


def test_a_tool_call_is_read_from_the_answer(serving: Any) -> None:
    server = serving(Script([b"Let me see.\n", CALL]))
    choice = server.post(CHAT, {"messages": HI, "tools": [WEATHER]}).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert call["id"].startswith("call_")


def test_a_streamed_call_gives_id_and_name_once_and_then_pieces(serving: Any) -> None:
    server = serving(Script([bytes([byte]) for byte in CALL + b"\n" + CALL]))
    found = chunks(server.post(CHAT, {"messages": HI, "tools": [WEATHER], "stream": True}).text)
    calls = [call for chunk in found for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    for index in (0, 1):
        first, *rest = [call for call in calls if call["index"] == index]
        assert first["function"] == {"name": "weather", "arguments": ""}
        assert all(set(call) == {"index", "function"} for call in rest)
        assert "".join(call["function"]["arguments"] for call in rest) == '{"city": "Oslo"}'
        assert len(rest) > 3
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert not any(chunk["choices"][0]["delta"].get("content") for chunk in found)


def test_past_calls_reach_the_template_as_objects(serving: Any) -> None:
    server = serving()
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}
    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    ]
    assert server.post(CHAT, {"messages": messages}).status_code == 200
    turns = server.backend.frames[0][1].messages
    function = json.loads(turns[1].extra)["tool_calls"][0]["function"]
    assert function == {"name": "weather", "arguments": {"a": 1}}
    assert json.loads(turns[2].extra) == {"tool_call_id": "c"}


def test_reasoning_is_kept_apart(serving: Any) -> None:
    script = Script([b"<think>\n", b"2+2", b"=4\n</th", b"ink>\n\nFo", b"ur"])
    template = "<think></think>"
    server = serving(backend=FakeBackend(lambda prompt, gen: script, template=template))
    message = server.post(CHAT, {"messages": HI}).json()["choices"][0]["message"]
    assert message["reasoning_content"] == "2+2=4"
    assert message["content"] == "Four"
    found = chunks(server.post(CHAT, {"messages": HI, "stream": True}).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in found]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "2+2=4"
    assert "".join(delta.get("content", "") for delta in deltas) == "Four"


def test_tokens_of_a_thought_are_counted(serving: Any) -> None:
    thinking = [b"<think>\n", b"2+2", b"=4\n</th", b"ink>\n\nFo", b"ur"]
    # A byte is a token here; the whole step in which the thought ends is counted.
    cases = ((thinking, 26), ([b"<th", b"at", b" is four"], 0), ([b"<think>", b"2+2"], 10))
    for pieces, expected in cases:
        script = Script(list(pieces))
        fake = FakeBackend(lambda prompt, gen, s=script: s, template="<think></think>")
        server = serving(backend=fake)
        for n in (1, 2):
            body = {"messages": HI, "n": n}
            usage = server.post(CHAT, body).json()["usage"]
            assert usage["completion_tokens_details"]["reasoning_tokens"] == n * expected
            streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
            usage = chunks(server.post(CHAT, streamed).text)[-1]["usage"]
            assert usage["completion_tokens_details"]["reasoning_tokens"] == n * expected
        body = {"input": "2+2?"}
        details = server.post("/v1/responses", body).json()["usage"]["output_tokens_details"]
        assert details["reasoning_tokens"] == expected
        lines = server.post("/v1/responses", {**body, "stream": True}).text.splitlines()
        last = json.loads([line for line in lines if line.startswith("data: ")][-1][6:])
        details = last["response"]["usage"]["output_tokens_details"]
        assert details["reasoning_tokens"] == expected


def test_a_failure_before_the_first_token_has_its_own_status(serving: Any) -> None:
    failure = ("invalid_constraint", "missing )", "1")
    server = serving(Script(failure=failure))
    for stream in (False, True):
        answer = server.post(CHAT, {"messages": HI, "regex": "a(b", "stream": stream})
        assert answer.status_code == 400
        assert answer.json()["error"] == {
            "message": "regex: missing ) (at 1)",
            "type": "invalid_request_error",
            "param": "regex",
            "code": "invalid_constraint",
        }


def test_a_failure_of_our_own_tells_nothing_of_the_request(serving: Any) -> None:
    answer = serving(Script(failure=("internal", "KeyError: 'secret'", None))).post(
        CHAT, {"messages": HI}
    )
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_a_failure_in_mid_stream_ends_the_stream_with_an_error(serving: Any) -> None:
    backend = FakeBackend(lambda prompt, gen: Script([b"one"], hold=True))
    server = serving(backend=backend)

    async def ask(client: Any) -> str:
        async with client.stream("POST", CHAT, json={"messages": HI, "stream": True}) as answer:
            return "".join([piece async for piece in answer.aiter_text()])

    async def both(client: Any) -> str:
        import asyncio  # noqa: PLC0415  # only this test runs two things at once

        asking = asyncio.create_task(ask(client))
        while not any(server.gateway.metrics.first_token.counted()["counts"]):
            await asyncio.sleep(0.01)  # until something has been sent
        backend.die()
        return await asking

    found = events(server.run(both))
    assert found[-1] == "[DONE]"
    assert found[-2]["error"]["code"] == "runtime_unavailable"


def test_one_constraint_in_the_words_of_two_servers_is_one(serving: Any) -> None:
    server = serving()
    twice = {"messages": HI, "guided_regex": "a", "structured_outputs": {"regex": "a"}}
    assert server.post("/v1/chat/completions", twice).status_code == 200
    other = {**twice, "guided_regex": "b"}
    assert server.post("/v1/chat/completions", other).json()["error"]["param"] == "guided_regex"


def test_a_chats_logprob_is_a_number_also_where_a_jumped_token_has_none() -> None:
    token = TokenLogprob(7, b"x", None)
    (shown,) = chat_logprobs([token], 2)["content"]
    assert shown == {"token": "x", "logprob": -9999.0, "bytes": [120], "top_logprobs": []}
