from typing import Any

import pytest
from tests.runtime.server.fake import FakeBackend, Script
from tests.runtime.server.sse import chunks

from branchwork.runtime.wire.messages import Gen, Text

PATH = "/v1/completions"


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("hi", [Text(0, "hi")]),
        ("", [Text(0, "")]),
        ([104, 105], [Text(0, token_ids=(104, 105))]),
        (["a", "b"], [Text(0, "a"), Text(0, "b")]),
        ([[104], [105]], [Text(0, token_ids=(104,)), Text(0, token_ids=(105,))]),
        (["a", [105]], [Text(0, "a"), Text(0, token_ids=(105,))]),
    ],
)
def test_prompts_are_texts_ids_or_batches_of_both(
    serving: Any, prompt: Any, sent: list[Text]
) -> None:
    server = serving()
    answer = server.post(PATH, {"prompt": prompt})
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(len(sent)))
    texts = [each for each in server.backend.frames[0] if isinstance(each, Text)]
    assert [(each.text, each.token_ids) for each in texts] == [
        (each.text, each.token_ids) for each in sent
    ]


@pytest.mark.parametrize(
    "prompt", [[], [[]], [1, "a"], [256], [-1], [1.5], [True], [[1], []], {"a": 1}, 3, None, [None]]
)
def test_other_prompts_are_refused(serving: Any, prompt: Any) -> None:
    answer = serving().post(PATH, {"prompt": prompt})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("prompt")


def test_answers_are_sixteen_tokens_unless_said_or_constrained(serving: Any) -> None:
    server = serving()
    for fields in ({}, {"max_tokens": 3}, {"regex": "a"}):
        server.post(PATH, {"prompt": "a", **fields})
    bounds = [
        each.sampling.max_tokens
        for frame in server.backend.frames
        for each in frame
        if isinstance(each, Gen)
    ]
    assert bounds == [16, 3, None]


def test_scoring_a_prompt_gives_all_its_logprobs_and_the_first_is_null(serving: Any) -> None:
    """What lm-eval sends: echo, logprobs and one token, on a batch of id lists."""
    server = serving(Script([b"!"]))
    body = {"prompt": [[104, 105], [106, 107]], "echo": True, "logprobs": 1, "max_tokens": 1}
    choices = server.post(PATH, {**body, "temperature": 0}).json()["choices"]
    first = choices[0]["logprobs"]
    assert choices[0]["text"] == "hi!"
    assert first["tokens"] == ["h", "i", "!"]
    assert first["token_logprobs"] == [None, -0.5, -0.5]
    assert first["top_logprobs"][0] is None
    assert first["top_logprobs"][1] == {"i": -0.5}
    assert first["text_offset"] == [0, 1, 2]
    assert choices[1]["text"] == "jk!"
    assert server.backend.frames[0][2].prompt_logprobs_from == 0


def test_a_stream_equals_the_whole_in_its_order(serving: Any) -> None:
    server = serving()
    body = {"prompt": ["ab", "cd"], "n": 2, "logprobs": 2, "echo": True}
    whole = server.post(PATH, body).json()
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    found = chunks(server.post(PATH, asked).text)
    for choice in whole["choices"]:
        own = [
            chunk["choices"][0]
            for chunk in found[:-1]
            if chunk["choices"][0]["index"] == choice["index"]
        ]
        assert "".join(part["text"] for part in own) == choice["text"]
        tokens = [
            pair
            for part in own
            if part["logprobs"]
            for pair in zip(
                part["logprobs"]["text_offset"], part["logprobs"]["tokens"], strict=True
            )
        ]
        logprobs = choice["logprobs"]
        assert tokens == list(zip(logprobs["text_offset"], logprobs["tokens"], strict=True))
    assert found[-1]["usage"] == whole["usage"]


def test_the_best_of_several_answers_are_the_likeliest(serving: Any) -> None:
    server = serving()
    answer = server.post(PATH, {"prompt": "a", "n": 2, "best_of": 4}).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 4 * 11
    assert sum(isinstance(each, Gen) for each in server.backend.frames[0]) == 4
    for fields in ({"best_of": 1, "n": 2}, {"best_of": 2, "stream": True}):
        assert server.post(PATH, {"prompt": "a", **fields}).status_code == 400


def test_token_ids_come_as_the_bench_and_agents_read_them(serving: Any) -> None:
    server = serving()
    for field in ("return_token_ids", "return_tokens"):
        body = {"prompt": [104, 105], field: True}
        whole = server.post(PATH, body).json()["choices"][0]
        assert whole["prompt_token_ids"] == [104, 105]
        found = chunks(server.post(PATH, {**body, "stream": True}).text)
        ids = [i for chunk in found for i in chunk["choices"][0].get("token_ids", [])]
        assert ids == whole["token_ids"] == list(b"hello world")


def test_runs_say_how_tokens_came_about(serving: Any) -> None:
    server = serving(Script([b"ab"], jumped=True))
    body = {"prompt": "a", "stream": True, "stream_options": {"include_runs": True}}
    found = chunks(server.post(PATH, body).text)
    assert found[0]["choices"][0]["runs"] == [{"kind": "jumped", "token_ids": [97, 98]}]


def test_caches_of_different_salts_are_apart_and_never_named_by_the_caller(serving: Any) -> None:
    server = serving()
    for salt in ("a", "b", "a", None):
        server.post(PATH, {"prompt": "x", "cache_salt": salt})
    first, second, third, none = [frame[0].salt for frame in server.backend.frames]
    assert first == third != second
    assert first not in ("a", "b", "")
    assert none == ""


def test_too_many_answers_are_refused(serving: Any) -> None:
    server = serving(max_prompts=4)
    assert server.post(PATH, {"prompt": ["a"] * 5}).status_code == 400
    assert server.post(PATH, {"prompt": ["a"] * 2, "n": 3}).status_code == 400
    assert server.post(PATH, {"prompt": ["a"] * 2, "n": 2}).status_code == 200


def test_a_full_queue_says_when_to_come_back(serving: Any) -> None:
    backend = FakeBackend(lambda p, g: Script(failure=("queue_full", "4096 requests wait", None)))
    answer = serving(backend=backend).post(PATH, {"prompt": "a"})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["type"] == "rate_limit_error"
