"""Programs over a server's own text interface, and Anthropic's."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.fake_api import Answer, FakeApi

import branchwork as bw
from branchwork.lang.api.anthropic import Anthropic
from branchwork.lang.api.endpoint import RuntimeEndpoint
from branchwork.lang.api.litellm import LiteLLM
from branchwork.runtime.wire.errors import RequestError, SetupError

MakeApi = Callable[[Answer], FakeApi]


def test_a_server_gets_text_sampling_and_constraints(fake_api: MakeApi) -> None:
    def answer(path: str, body: dict[str, Any]) -> Any:
        if path != "/generate":
            return {"model_path": "tiny", "chat_format": None}
        meta = {
            "prompt_tokens": 4,
            "completion_tokens": 1,
            "finish_reason": {"type": "stop", "matched": "\n"},
            "output_token_logprobs": [[-0.5, 7, "42"]],
            "output_top_logprobs": [[[-0.5, 7, "42"], [-1.5, 8, "43"]]],
        }
        return {"text": "42", "meta_info": meta}

    api = fake_api(answer)
    backend = RuntimeEndpoint(api.url, api_key="key")

    @bw.function
    def ask(s: bw.State) -> None:
        s += "6*7=" + bw.gen("a", dtype=int, return_logprob=True, top_logprobs_num=2)

    state = ask.run(backend=backend)
    backend.close()
    assert state["a"] == "42"
    assert state.get_meta_info("a")["output_top_logprobs"][0][1][0] == -1.5
    sent = api.requests[-1][1]
    assert sent["text"] == "6*7="
    assert sent["sampling_params"]["regex"] == r"[-+]?[0-9]+[ \n]*"
    assert sent["sampling_params"]["stop"] == [" ", "\n"]


def test_choices_are_scored_by_the_prompts_logprobs(fake_api: MakeApi) -> None:
    def answer(path: str, body: dict[str, Any]) -> Any:
        if path != "/generate":
            return {}
        words = body["text"].split(" ")
        entries = [[-0.1 if word == "blue" else -1.0, i, word] for i, word in enumerate(words)]
        entries = entries[body.get("logprob_start_len", 0) :]
        return {
            "text": "",
            "meta_info": {"prompt_tokens": len(words), "input_token_logprobs": entries},
        }

    backend = RuntimeEndpoint(fake_api(answer).url)

    @bw.function
    def ask(s: bw.State) -> None:
        s += "the sky is" + bw.select("a", [" red", " blue"])

    state = ask.run(backend=backend)
    backend.close()
    assert state["a"] == " blue"
    assert state.get_meta_info("a")["normalized_prompt_logprobs"] == [-1.0, -0.1]


def test_a_servers_stream_is_read_as_it_grows(fake_api: MakeApi) -> None:
    def answer(path: str, body: dict[str, Any]) -> Any:
        if path != "/generate":
            return {}
        return [{"text": text, "meta_info": {}} for text in ("a", "a\ufffd", "aé", "aé b")]

    backend = RuntimeEndpoint(fake_api(answer).url)

    @bw.function
    def ask(s: bw.State) -> None:
        s += "?" + bw.gen("a")

    assert "".join(ask.run(backend=backend, stream=True).text_iter("a")) == "aé b"
    backend.close()


def test_anthropics_api_continues_a_begun_message(fake_api: MakeApi) -> None:
    api = fake_api(
        lambda path, body: {
            "content": [{"type": "text", "text": " Paris"}],
            "stop_reason": "stop_sequence",
            "stop_sequence": ".",
            "usage": {"input_tokens": 9, "output_tokens": 2},
        }
    )
    backend = Anthropic("claude", base_url=api.url, api_key="key")

    @bw.function
    def ask(s: bw.State) -> None:
        s += bw.system("Be brief.") + bw.user("Capital of France?")
        s += bw.assistant("It is " + bw.gen("a", stop="."))

    state = ask.run(backend=backend)
    backend.close()
    path, body, headers = api.requests[0]
    assert path == "/v1/messages"
    assert {name.lower(): value for name, value in headers.items()}["x-api-key"] == "key"
    assert body["system"] == "Be brief."
    assert body["messages"] == [
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "It is"},
    ]
    assert body["stop_sequences"] == ["."]
    assert state.get_meta_info("a")["finish_reason"] == {"type": "stop", "matched": "."}


def test_anthropics_stream_is_read_event_by_event(fake_api: MakeApi) -> None:
    events = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "lo"}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 2},
        },
    ]
    backend = Anthropic("claude", base_url=fake_api(lambda path, body: events).url, api_key="key")

    @bw.function
    def ask(s: bw.State) -> None:
        s += bw.user("Hi") + bw.assistant(bw.gen("a"))

    assert "".join(ask.run(backend=backend, stream=True).text_iter("a")) == "Hello"
    backend.close()


def test_an_api_without_scores_refuses_to_select(fake_api: MakeApi) -> None:
    backend = Anthropic("claude", base_url=fake_api(lambda path, body: {}).url, api_key="key")

    @bw.function
    def ask(s: bw.State) -> None:
        s += bw.user("Hi") + bw.assistant(bw.select("a", ["x", "y"]))

    with pytest.raises(RequestError, match="cannot score choices"):
        ask.run(backend=backend)
    backend.close()


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(SetupError, match="pip install litellm"):
        LiteLLM("gemini/gemini-2.5-flash")


@pytest.mark.parametrize("cumulative", [True, False])
def test_a_servers_stream_tells_each_tokens_logprob_once(
    fake_api: MakeApi, cumulative: bool
) -> None:
    tokens = [[-0.5, 1, "a"], [-0.25, 2, " b"], [-0.125, 3, " c"]]

    def event(i: int) -> dict[str, Any]:
        meta: dict[str, Any] = {"output_token_logprobs": tokens[: i + 1]}
        if not cumulative:
            meta = {"output_token_logprobs": [tokens[i]], "output_token_logprobs_length": i + 1}
        return {"text": "".join(str(token[2]) for token in tokens[: i + 1]), "meta_info": meta}

    api = fake_api(lambda path, body: [event(i) for i in range(3)] if "text" in body else {})
    backend = RuntimeEndpoint(api.url)

    async def main() -> list[tuple[str, dict[str, Any]]]:
        program = bw.function(lambda s: s.append("?" + bw.gen("a", return_logprob=True)))
        state = await program.arun(backend=backend, stream=True)
        return [pair async for pair in state.text_async_iter("a", return_meta_data=True)]

    pairs = asyncio.run(main())
    backend.close()
    assert [entry[0] for _, meta in pairs for entry in meta["output_token_logprobs"]] == [
        -0.5,
        -0.25,
        -0.125,
    ]
    assert pairs[-1][1]["completion_tokens"] == 3


def test_messages_are_written_as_the_server_says(fake_api: MakeApi) -> None:
    told = {"begin": {"user": "<u>", "assistant": "<a>"}, "end": {"user": "", "assistant": ""}}
    answers: dict[str, Any] = {
        "/generate": {"text": "Hi", "meta_info": {}},
        "/get_model_info": {"model_path": "tiny"},
        "/get_server_info": {"chat_format": {**told, "prefix": "<s>", "default_system": ""}},
    }
    api = fake_api(lambda path, body: answers[path])
    backend = RuntimeEndpoint(api.url)
    bw.function(lambda: bw.user("Who?") + bw.assistant(bw.gen("a"))).run(backend=backend)
    backend.close()
    assert api.requests[-1][1]["text"] == "<s><u>Who?<a>"


def test_messages_are_written_by_the_chat_template_that_is_named(fake_api: MakeApi) -> None:
    api = fake_api(
        lambda path, body: (
            {"text": "Hi", "meta_info": {}} if path == "/generate" else {"model_path": "tiny"}
        )
    )
    backend = RuntimeEndpoint(api.url, chat_template_name="llama-2-chat")
    assert backend.get_model_name() == "tiny"
    bw.function(lambda: bw.user("Who?") + bw.assistant(bw.gen("a"))).run(backend=backend)
    backend.close()
    assert api.requests[-1][1]["text"] == "[INST] Who? [/INST]"


def test_a_servers_cache_is_flushed_and_its_numbers_are_told(fake_api: MakeApi) -> None:
    api = fake_api(lambda path, body: {"version": "1"} if path == "/get_server_info" else {})
    backend = RuntimeEndpoint(api.url)
    assert bw.flush_cache(backend)
    assert api.requests[-1][0] == "/flush_cache"
    info = bw.get_server_info(backend)
    backend.close()
    assert info is not None
    assert info["version"] == "1"
