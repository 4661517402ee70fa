"""The routes beside chat and completions: what each answers, and how its stream is made."""

import base64
import json
import struct
from typing import Any

import pytest
from tests.runtime.server.fake import Script
from tests.runtime.server.sse import chunks

from branchwork.runtime.wire.messages import Embed, Gen, Open, Select, Text

HI = [{"role": "user", "content": "hi"}]
CALL = b'<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
PIECES = [b"Let me ", b"see.\n", CALL[:30], CALL[30:50], CALL[50:]]
FLAT_TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
ANTHROPIC_TOOL = {"name": "weather", "input_schema": {"type": "object"}}


def named_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Events with names, each named as its data says."""
    found = []
    for block in text.rstrip("\n").split("\n\n"):
        name, data = block.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        found.append((body["type"], body))
    return found


# ------------------------------------------------------------------ /v1/responses


def test_a_response_holds_a_message_and_calls_as_items(serving: Any) -> None:
    server = serving(Script(PIECES))
    body = server.post("/v1/responses", {"input": "hi", "tools": [FLAT_TOOL]}).json()
    message, call = body["output"]
    assert body["status"] == "completed"
    assert message["content"][0]["text"] == "Let me see."
    assert (call["type"], call["name"]) == ("function_call", "weather")
    assert json.loads(call["arguments"]) == {"city": "Oslo"}
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens_details"]["cached_tokens"] > 0


def test_a_responses_events_build_what_the_whole_would_be(serving: Any) -> None:
    server = serving(Script(PIECES))
    ask = {"input": "hi", "tools": [FLAT_TOOL], "stream": True}
    events = named_events(server.post("/v1/responses", ask).text)
    names = [name for name, _ in events]
    assert names[:3] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]
    assert names[-1] == "response.completed"
    assert [body["sequence_number"] for _, body in events] == list(range(len(events)))
    text = "".join(body["delta"] for name, body in events if name == "response.output_text.delta")
    assert text == "Let me see."
    pieces = [
        body["delta"] for name, body in events if name == "response.function_call_arguments.delta"
    ]
    assert "".join(pieces) == '{"city": "Oslo"}'
    assert len(pieces) > 1
    final = events[-1][1]["response"]
    assert [item["type"] for item in final["output"]] == ["message", "function_call"]
    done = [body["item"] for name, body in events if name == "response.output_item.done"]
    assert done == final["output"]


def test_a_conversation_goes_on_from_a_stored_response(serving: Any) -> None:
    server = serving(Script(PIECES))
    ask = {"input": "hi", "tools": [FLAT_TOOL], "instructions": "be brief"}
    first = server.post("/v1/responses", ask).json()
    call = first["output"][1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    server.post("/v1/responses", {"input": [result], "previous_response_id": first["id"]})
    turns = server.backend.frames[-1][1].messages
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    assert turns[1].content == "Let me see."
    assert json.loads(turns[1].extra)["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert turns[2].content == "rain"


def test_stored_responses_are_bounded_found_and_forgotten(serving: Any) -> None:
    server = serving(max_stored=2)
    ids = [server.post("/v1/responses", {"input": "hi"}).json()["id"] for _ in range(3)]
    assert server.get(f"/v1/responses/{ids[0]}").status_code == 404
    assert server.get(f"/v1/responses/{ids[2]}").json()["id"] == ids[2]
    assert server.request("DELETE", f"/v1/responses/{ids[2]}").json()["deleted"] is True
    assert server.get(f"/v1/responses/{ids[2]}").status_code == 404
    unstored = server.post("/v1/responses", {"input": "hi", "store": False}).json()["id"]
    assert server.get(f"/v1/responses/{unstored}").status_code == 404
    missing = server.post("/v1/responses", {"input": "hi", "previous_response_id": "resp_x"})
    assert missing.json()["error"]["param"] == "previous_response_id"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_responses_logprobs_stand_by_its_text(serving: Any, streamed: bool) -> None:
    server = serving()
    include = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    answer = server.post("/v1/responses", {"input": "hi", "stream": streamed, **include})
    body = named_events(answer.text)[-1][1]["response"] if streamed else answer.json()
    (part,) = body["output"][0]["content"]
    assert "".join(each["token"] for each in part["logprobs"]) == part["text"] == "hello world"
    assert all(len(each["top_logprobs"]) == 2 for each in part["logprobs"])
    if streamed:
        deltas = [b for n, b in named_events(answer.text) if n == "response.output_text.delta"]
        assert [each for delta in deltas for each in delta["logprobs"]] == part["logprobs"]
    refused = server.post("/v1/responses", {"input": "hi", "top_logprobs": 21})
    assert refused.json()["error"]["param"] == "top_logprobs"


def test_a_response_that_is_cut_is_incomplete(serving: Any) -> None:
    body = serving(Script(reason="length")).post("/v1/responses", {"input": "hi"}).json()
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_response_in_a_format_is_held_to_it(serving: Any) -> None:
    server = serving()
    form = {"type": "json_schema", "name": "x", "schema": {"type": "null"}, "strict": True}
    server.post("/v1/responses", {"input": "hi", "text": {"format": form}})
    assert server.backend.frames[0][2].constraint.schema == '{"type":"null"}'


# ------------------------------------------------------------------ /v1/messages


def test_a_message_is_anthropics(serving: Any) -> None:
    server = serving(Script(PIECES))
    ask = {"messages": HI, "max_tokens": 9, "tools": [ANTHROPIC_TOOL], "system": "be brief"}
    body = server.post("/v1/messages", ask).json()
    text, call = body["content"]
    assert (body["type"], body["role"], body["stop_reason"]) == ("message", "assistant", "tool_use")
    assert text == {"type": "text", "text": "Let me see."}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "weather", {"city": "Oslo"})
    _, chat, gen, _ = server.backend.frames[0]
    assert [turn.role for turn in chat.messages] == ["system", "user"]
    assert gen.sampling.max_tokens == 9


def test_a_messages_events_open_and_close_each_block(serving: Any) -> None:
    server = serving(Script(PIECES))
    ask = {"messages": HI, "max_tokens": 9, "tools": [ANTHROPIC_TOOL], "stream": True}
    events = named_events(server.post("/v1/messages", ask).text)
    names = [name for name, _ in events if name != "content_block_delta"]
    assert names == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    deltas = [body["delta"] for name, body in events if name == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == "Let me see."
    assert "".join(delta.get("partial_json", "") for delta in deltas) == '{"city": "Oslo"}'
    assert events[-2][1]["delta"]["stop_reason"] == "tool_use"


def test_anthropics_tool_results_become_turns_of_their_own(serving: Any) -> None:
    server = serving()
    used = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": [{"type": "text", "text": "5"}],
    }
    turns = [
        *HI,
        {"role": "assistant", "content": [{"type": "text", "text": "ok"}, used]},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
    ]
    assert server.post("/v1/messages", {"messages": turns, "max_tokens": 9}).status_code == 200
    sent = server.backend.frames[0][1].messages
    assert [(turn.role, turn.content) for turn in sent] == [
        ("user", "hi"),
        ("assistant", "ok"),
        ("tool", "5"),
        ("user", "and?"),
    ]


def test_a_tool_that_only_anthropic_runs_is_refused(serving: Any) -> None:
    tool = {"type": "web_search_20250305", "name": "web_search"}
    ask = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "tools": [tool]}
    answer = serving().post("/v1/messages", ask)
    assert answer.status_code == 400
    assert "web_search_20250305" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}),
        ("/generate", {"text": "hi"}),
    ],
)
def test_every_route_that_generates_keeps_salts_apart(serving: Any, path: str, ask: Any) -> None:
    server = serving()
    for salt in ("a", "b", None):
        assert server.post(path, {**ask, "cache_salt": salt, "priority": 7}).status_code == 200
    opened = [frame[0] for frame in server.backend.frames]
    assert len({each.salt for each in opened}) == 3
    assert {each.priority for each in opened} == {7}


def test_a_message_of_the_assistant_at_the_end_begins_the_answer(serving: Any) -> None:
    server = serving()
    turns = [*HI, {"role": "assistant", "content": "Sure: "}]
    server.post("/v1/messages", {"messages": turns, "max_tokens": 9})
    _, chat, text, *_ = server.backend.frames[0]
    assert (len(chat.messages), text.text) == (1, "Sure: ")


@pytest.mark.parametrize(
    ("reason", "matched", "stop_reason", "sequence"),
    [
        ("stop", None, "end_turn", None),
        ("length", None, "max_tokens", None),
        ("stop_string", "END", "stop_sequence", "END"),
    ],
)
def test_anthropics_reasons(
    serving: Any, reason: str, matched: Any, stop_reason: str, sequence: Any
) -> None:
    ask = {"messages": HI, "max_tokens": 9, "stop_sequences": ["END"]}
    body = serving(Script(reason=reason, matched=matched)).post("/v1/messages", ask).json()
    assert (body["stop_reason"], body["stop_sequence"]) == (stop_reason, sequence)


def test_anthropics_errors_have_anthropics_shape(serving: Any) -> None:
    body = serving().post("/v1/messages", {"messages": HI}).json()
    assert body == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens is required"},
    }


# ------------------------------------------------------------------ SGLang's routes


def test_generate_answers_with_text_and_meta_info(serving: Any) -> None:
    server = serving()
    ask = {
        "text": "hi",
        "sampling_params": {"max_new_tokens": 4, "temperature": 0, "stop": ["X"]},
        "return_logprob": True,
        "logprob_start_len": 0,
        "return_text_in_logprobs": True,
    }
    body = server.post("/generate", ask).json()
    assert body["text"] == "hello world"
    meta = body["meta_info"]
    assert meta["finish_reason"] == {"type": "stop", "matched": None}
    assert meta["input_token_logprobs"] == [[None, 104, "h"], [-0.5, 105, "i"]]
    assert meta["output_token_logprobs"][0] == [-0.5, 104, "h"]
    sampling = server.backend.frames[0][2].sampling
    assert (sampling.max_tokens, sampling.stop) == (4, ("X",))


def test_generate_takes_batches_with_parameters_of_their_own(serving: Any) -> None:
    server = serving()
    ask = {"text": ["a", "b"], "sampling_params": [{"max_new_tokens": 0}, {"regex": "x"}]}
    assert len(server.post("/generate", ask).json()) == 2
    first, second = [each for each in server.backend.frames[0] if isinstance(each, Gen)]
    assert first.sampling.max_tokens == 0
    assert second.constraint.pattern == "x"
    ask = {"input_ids": [[1, 2]], "sampling_params": {}}
    assert isinstance(server.post("/generate", ask).json(), list)
    assert server.post("/generate", {**ask, "sampling_params": [{}, {}]}).status_code == 400


def test_generates_stream_repeats_the_text_so_far(serving: Any) -> None:
    found = chunks(serving().post("/generate", {"text": "hi", "stream": True}).text)
    assert [event["text"] for event in found] == ["hello", "hello world", "hello world"]
    assert found[-1]["meta_info"]["finish_reason"]["type"] == "stop"


def test_what_sglangs_frontend_asks_is_answered(serving: Any) -> None:
    server = serving()
    assert server.get("/get_model_info").json()["model_path"] == "fake"
    info = server.get("/get_server_info").json()
    assert info["internal_states"][0]["slots_total"] == 100
    assert set(info["chat_format"]) == {"begin", "end", "prefix", "default_system"}
    assert server.get("/flush_cache").status_code == 200
    assert server.post("/flush_cache", {"empty_cache": True}).status_code == 200
    assert server.get("/health_generate").status_code == 200


# ------------------------------------------------------------------ tokens, vectors, scores


def test_texts_and_chats_are_tokenised_and_back(serving: Any) -> None:
    server = serving()
    whole = server.post("/tokenize", {"prompt": "hi", "return_token_strs": True}).json()
    assert (whole["tokens"], whole["token_strs"]) == ([104, 105], ["h", "i"])
    chat = server.post("/tokenize", {"messages": HI}).json()
    assert chat["count"] == len("<user>hi\n<assistant>")
    assert server.post("/detokenize", {"tokens": [104, 105]}).json()["prompt"] == "hi"
    assert server.post("/detokenize", {"tokens": [256]}).status_code == 400
    assert server.post("/tokenize", {}).status_code == 400
    info = server.get("/tokenizer_info").json()
    assert info["eos_token"] == "<eos>"
    assert "chat_template" in info


def test_embeddings_come_as_floats_or_as_bytes(serving: Any) -> None:
    server = serving()
    body = server.post("/v1/embeddings", {"input": ["a", "bc"]}).json()
    assert [item["embedding"] for item in body["data"]] == [[0.6, 0.8], [1.0, 0.0]]
    assert body["usage"] == {
        "prompt_tokens": 3,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    packed = server.post("/v1/embeddings", {"input": "a", "encoding_format": "base64"}).json()
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack("<2f", raw) == pytest.approx((0.6, 0.8))
    short = server.post("/v1/embeddings", {"input": "a", "dimensions": 1}).json()
    assert short["data"][0]["embedding"] == [1.0]
    assert server.post("/v1/embeddings", {"input": "a", "dimensions": 3}).status_code == 400
    asked = [each for each in server.backend.frames[0] if isinstance(each, Embed)]
    assert [each.pooling for each in asked] == ["mean", "mean"]


def test_labels_are_scored_after_each_item(serving: Any) -> None:
    server = serving()
    ask = {"query": "a", "items": ["b", "c"], "label_token_ids": [97, 98], "apply_softmax": True}
    body = server.post("/v1/score", ask).json()
    assert len(body["scores"]) == 2
    assert all(sum(scores) == pytest.approx(1) for scores in body["scores"])
    texts = [each.text for each in server.backend.frames[0] if isinstance(each, Text)]
    assert texts == ["ab", "ac"]
    selects = [each for each in server.backend.frames[0] if isinstance(each, Select)]
    assert all(each.method == "none" and each.choices == ("a", "b") for each in selects)


def test_choices_and_likeness_are_scored(serving: Any) -> None:
    server = serving()
    choices = server.post("/v1/score", {"prompt": "a", "choices": ["x", "y"]}).json()["scores"]
    assert [choice["text"] for choice in choices] == ["x", "y"]
    pairs = server.post("/v1/score", {"text_1": "a", "text_2": ["b", "cc"]}).json()["data"]
    assert [pair["score"] for pair in pairs] == pytest.approx([1.0, 0.6])


WARNED = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 4},
    "/generate": {"text": "hi"},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", WARNED)
def test_every_route_says_what_a_constraint_does_not_enforce(
    serving: Any, path: str, stream: bool
) -> None:
    server = serving(Script([b"{}"], warnings=("format is not enforced",)))
    answer = server.post(path, {**WARNED[path], "stream": stream}).text
    assert '"warnings":["format is not enforced"]' in answer
    assert "warnings" not in serving().post(path, {**WARNED[path], "stream": stream}).text


# ------------------------------------------------------------------ the server itself


def test_health_and_ready_cost_the_runtime_nothing(serving: Any) -> None:
    server = serving()
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/ready").status_code == 200
    assert not server.backend.frames


def test_without_a_runtime_health_is_red_and_requests_wait_for_later(serving: Any) -> None:
    server = serving()
    server.gateway.detach()
    assert server.get("/health").status_code == 503
    assert server.get("/ready").status_code == 503
    answer = server.post("/v1/completions", {"prompt": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert b"branchwork_runtime_up 0.0" in server.get("/metrics").content


def test_metrics_count_requests_tokens_and_durations(serving: Any) -> None:
    server = serving(Script([b"abc"], jumped=True))
    server.post("/v1/completions", {"prompt": "ab"})
    server.post("/v1/completions", {"prompt": "ab", "stream": True})
    lines = server.get("/metrics").text.splitlines()
    for line in (
        'branchwork_http_requests_total{route="/v1/completions",status="200"} 2.0',
        'branchwork_tokens_total{kind="jumped"} 6.0',
        'branchwork_tokens_total{kind="cached"} 2.0',
        'branchwork_first_token_seconds_bucket{le="+Inf"} 1.0',
        "branchwork_request_seconds_count 2.0",
        "branchwork_slots_free 90.0",
    ):
        assert line in lines


def test_every_route_is_described(serving: Any) -> None:
    page = serving().get("/openapi.json").json()
    body = page["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    assert "temperature" in page["components"]["schemas"]["ChatRequest"]["properties"]


def test_a_flush_can_be_of_one_salt_and_the_cache_can_be_saved(serving: Any) -> None:
    server = serving()
    assert server.request("POST", "/server/flush_cache").status_code == 200
    for body, salted in (({"cache_salt": "tenant"}, True), ({}, False)):
        assert server.post("/server/flush_cache", body).status_code == 200
        what, asked = server.backend.asked[-1]
        assert what == "flush_cache"
        assert ("salt" in asked) == salted
        assert "tenant" not in str(asked), "a caller's salt goes no further than the gateway"
    assert server.post("/server/save_cache", {}).status_code == 200
    refused = server.post("/server/flush_cache", {"cache_salt": ""})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "cache_salt")


@pytest.mark.parametrize(("pin_s", "status"), [(60, 200), (0, 200), (-1, 400), (86_401, 400)])
def test_a_pin_has_both_bounds_and_reaches_the_runtime(
    serving: Any, pin_s: float, status: int
) -> None:
    server = serving()
    body = {"prompt": "hi", "max_tokens": 2, "cache_pin_s": pin_s}
    answer = server.post("/v1/completions", body)
    assert answer.status_code == status
    if status == 200:
        opened = [part for part in server.backend.frames[-1] if isinstance(part, Open)]
        assert [part.pin_s for part in opened] == [pin_s]
    else:
        assert answer.json()["error"]["param"] == "cache_pin_s"
