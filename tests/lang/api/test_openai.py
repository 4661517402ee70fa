"""Programs over OpenAI's API."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.fake_api import Answer, FakeApi

import branchwork as bw
from branchwork.lang.api.openai import OpenAI
from branchwork.lang.api.remote import Remote
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import (
    ConstraintError,
    InvalidParameter,
    QueueFull,
    RequestError,
    RuntimeUnreachable,
)

MakeApi = Callable[[Answer], FakeApi]


def chat(text: str, prompt_tokens: int = 10) -> dict[str, Any]:
    return {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 3},
    }


def plain(text: str, prompt_tokens: int = 10) -> dict[str, Any]:
    return {
        "choices": [{"text": text, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 3},
    }


@pytest.fixture
def connect() -> Iterator[Callable[..., OpenAI]]:
    made: list[Remote] = []

    def make(api: FakeApi, model: str = "gpt-4o-mini", **options: Any) -> OpenAI:
        made.append(OpenAI(model, base_url=api.url + "/v1", api_key="secret", **options))
        return made[-1]  # type: ignore[return-value]

    yield make
    for backend in made:
        backend.close()


@bw.function
def two_turns(s: bw.State, question: str) -> None:
    s += bw.system("Be kind.")
    s += bw.user(question)
    s += bw.assistant(bw.gen("first", stop="\n", temperature=0))
    s += bw.user("And then?")
    s += bw.assistant(bw.gen("second", 32))


def test_a_listener_that_raises_keeps_nothing_from_the_others(
    fake_api: MakeApi, connect: Callable[..., OpenAI], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waited for what came behind was never told of it."""
    backend = connect(fake_api(lambda path, body: chat("yes")))

    def broken(event: object) -> None:
        raise ZeroDivisionError

    heard: list[object] = []
    bad, good = backend.new_branch(broken), backend.new_branch(heard.append)
    backend.send([wire.Open(bad), wire.Open(good), wire.Abort(bad), wire.Abort(good)])
    assert backend.wait(lambda: bool(heard), 60)
    assert heard == [wire.Closed(good)]
    assert "a listener raised" in caplog.text


def test_a_chat_sends_the_messages_so_far(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    api = fake_api(lambda path, body: chat(f"answer {len(body['messages'])}"))
    state = two_turns.run(question="Why?", backend=connect(api))
    assert (state["first"], state["second"]) == ("answer 2", "answer 4")
    path, body, headers = api.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why?"},
    ]
    assert (body["stop"], body["temperature"], body["max_tokens"]) == (["\n"], 0.0, 128)
    assert api.requests[1][1]["messages"][2:] == [
        {"role": "assistant", "content": "answer 2"},
        {"role": "user", "content": "And then?"},
    ]
    assert state.get_meta_info("second")["prompt_tokens"] == 10


def test_every_mode_works_over_an_api(fake_api: MakeApi, connect: Callable[..., OpenAI]) -> None:
    def answer(path: str, body: dict[str, Any]) -> Any:
        if body.get("stream"):
            return [{"choices": [{"delta": {"content": word}}]} for word in ("an", " answer")]
        return chat("an answer")

    backend = connect(fake_api(answer))
    states = two_turns.run_batch([{"question": str(i)} for i in range(20)], backend=backend)
    assert {state["second"] for state in states} == {"an answer"}
    assert asyncio.run(two_turns.arun(question="?", backend=backend))["first"] == "an answer"
    stream = two_turns.run(question="?", backend=backend, stream=True)
    assert "".join(stream.text_iter("second")) == "an answer"


def test_a_completion_model_gets_the_whole_text(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    api = fake_api(lambda path, body: plain(" Paris"))

    @bw.function
    def ask(s: bw.State) -> None:
        s += "The capital is" + bw.gen("city", stop=".") + ". It is" + bw.gen("size")

    ask.run(backend=connect(api, "gpt-3.5-turbo-instruct"))
    assert [body["prompt"] for _, body, _ in api.requests] == [
        "The capital is",
        "The capital is Paris. It is",
    ]


def test_choices_of_a_completion_model_are_scored(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    def answer(path: str, body: dict[str, Any]) -> Any:
        last = body["prompt"][2:]
        logprob = -0.1 if last == "yes" else -2.0
        logprobs = {
            "tokens": ["Q?", last],
            "token_logprobs": [None, logprob],
            "text_offset": [0, 2],
        }
        return {"choices": [{"text": body["prompt"], "logprobs": logprobs}]}

    @bw.function
    def ask(s: bw.State) -> None:
        s += "Q?" + bw.select("a", ["no", "yes"])

    state = ask.run(backend=connect(fake_api(answer), "gpt-3.5-turbo-instruct"))
    assert state["a"] == "yes"
    assert state.probs("a")["yes"] > 0.8


def test_choices_of_a_chat_model_are_a_schema(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    api = fake_api(lambda path, body: chat('{"choice": "yes"}'))

    @bw.function
    def ask(s: bw.State) -> None:
        s += bw.user("Q?") + bw.assistant(bw.select("a", ["no", "yes"]))

    assert ask.run(backend=connect(api))["a"] == "yes"
    schema = api.requests[0][1]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["choice"]["enum"] == ["no", "yes"]


def test_a_schema_is_sent_and_a_pattern_is_checked(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    api = fake_api(lambda path, body: chat('{"a": 1}'))

    @bw.function
    def typed(s: bw.State) -> None:
        s += bw.user("?") + bw.assistant(bw.gen("a", type=dict[str, int]))

    assert typed.run(backend=connect(api))["a"] == {"a": 1}
    assert api.requests[0][1]["response_format"]["type"] == "json_schema"

    @bw.function
    def pattern(s: bw.State) -> None:
        s += bw.user("?") + bw.assistant(bw.gen("a", regex="[0-9]+"))

    with pytest.raises(ConstraintError, match="cannot be held to this constraint"):
        pattern.run(backend=connect(api))


def test_a_chat_model_cannot_go_on_with_a_begun_message(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    @bw.function
    def ask(s: bw.State) -> None:
        s += bw.user("?") + bw.assistant("Sure: " + bw.gen("a"))

    with pytest.raises(InvalidParameter, match="gen must come first in assistant"):
        ask.run(backend=connect(fake_api(lambda path, body: chat("x"))))


CHARACTER = "Name: Ada.\nBirthday: 1815.\nJob: poet.\nMore: nothing.\n"


def character(s: bw.State) -> None:
    s += "Name:" + bw.gen("name", stop="\n") + "\nBirthday:" + bw.gen("birthday", stop="\n")
    s += "\nJob:" + bw.gen("job", stop="\n") + "\n"


def test_writing_ahead_answers_three_slots_with_one_call(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    def answer(path: str, body: dict[str, Any]) -> Any:
        rest = CHARACTER[len(body["prompt"]) :]
        stop = body.get("stop")
        return plain(rest.partition(stop[0])[0] if stop else rest, len(body["prompt"]))

    api = fake_api(answer)
    backend = connect(api, "gpt-3.5-turbo-instruct")
    slow = bw.function(character).run(backend=backend)
    without = backend.token_usage.prompt_tokens
    assert len(api.requests) == 3
    backend.token_usage.reset()
    fast = bw.function(num_api_spec_tokens=64)(character).run(backend=backend)
    assert fast.text() == slow.text() == CHARACTER.partition("More")[0]
    assert len(api.requests) == 4
    assert backend.token_usage.prompt_tokens < without
    assert backend.token_usage.saved_prompt_tokens == 10
    sent = api.requests[-1][1]
    assert sent["max_tokens"] == 128
    assert "stop" not in sent


def test_writing_ahead_works_in_a_chat_message_too(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    api = fake_api(lambda path, body: chat(CHARACTER))

    @bw.function(num_api_spec_tokens=256)
    def ask(s: bw.State) -> None:
        s += bw.user("A character, please.")
        with s.assistant():
            character(s)

    state = ask.run(backend=connect(api))
    assert (state["name"], state["birthday"], state["job"]) == (" Ada.", " 1815.", " poet.")
    assert len(api.requests) == 1


def test_what_does_not_fit_is_asked_for_anew(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    texts = iter([" Ada\nHobby: chess\n", " 1815\n", " poet\n"])
    api = fake_api(lambda path, body: plain(next(texts)))
    state = bw.function(num_api_spec_tokens=8)(character).run(backend=connect(api, "davinci-002"))
    assert (state["name"], state["birthday"], state["job"]) == (" Ada", " 1815", " poet")
    assert len(api.requests) == 3


@pytest.mark.parametrize(
    ("status", "error", "calls"),
    [
        (401, RequestError, 1),
        (400, InvalidParameter, 1),
        (429, QueueFull, 3),
        (503, RequestError, 3),
    ],
)
def test_an_api_that_refuses_is_one_typed_error_and_passing_ones_are_tried_again(
    fake_api: MakeApi,
    connect: Callable[..., OpenAI],
    status: int,
    error: type[Exception],
    calls: int,
) -> None:
    api = fake_api(lambda path, body: status)
    backend = connect(api, max_retries=2)
    backend.provider._http._retry_after_s = 0.001  # type: ignore[attr-defined]
    with pytest.raises(error, match=rf'gen\("first".*answered {status}: no: {status}'):
        two_turns.run(question="?", backend=backend)
    assert len(api.requests) == calls


def test_an_api_that_is_not_there_is_a_transport_error() -> None:
    backend = OpenAI("gpt-4o", base_url="http://127.0.0.1:9", max_retries=0)
    with pytest.raises(RuntimeUnreachable, match=r"gpt-4o at http://127\.0\.0\.1:9"):
        two_turns.run(question="?", backend=backend)
    backend.close()


def test_forks_call_together_and_share_what_was_said(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    api = fake_api(lambda path, body: plain(body["prompt"][-1].upper()))

    @bw.function
    def tree(s: bw.State) -> list[str]:
        s += "root " + bw.gen("r")
        forks = s.fork(3)
        forks += lambda i: "abc"[i] + bw.gen("x")
        forks.join()
        return list(s["x"])

    assert tree.run(backend=connect(api, "davinci-002")).ret_value == ["A", "B", "C"]
    assert sorted(body["prompt"] for _, body, _ in api.requests)[1:] == [
        "root  a",
        "root  b",
        "root  c",
    ]


def test_key_and_address_come_from_the_environment(
    fake_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = fake_api(lambda path, body: chat("hello"))
    monkeypatch.setenv("OPENAI_BASE_URL", api.url + "/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    backend = OpenAI("gpt-4o-mini")
    two_turns.run(question="Why?", backend=backend)
    backend.close()
    assert api.requests[0][2]["Authorization"] == "Bearer from the environment"


def test_an_azure_deployment_is_addressed_by_its_name(fake_api: MakeApi) -> None:
    api = fake_api(lambda path, body: chat("hello"))
    backend = OpenAI(
        "mine", is_azure=True, azure_endpoint=api.url + "/", api_version="v", api_key="key"
    )
    two_turns.run(question="Why?", backend=backend)
    backend.close()
    path, _, headers = api.requests[0]
    assert path == "/openai/deployments/mine/chat/completions?api-version=v"
    assert {name.lower(): value for name, value in headers.items()}["api-key"] == "key"


@pytest.mark.parametrize(
    ("hole", "written", "kept"),
    [
        ({"dtype": int}, " 24 hours", "24 "),
        ({"dtype": str}, ' "Paris",\n  "population": 2', '"Paris"'),
        ({"json_schema": {"type": "object"}}, ' {"a": 1}\nIs that all?', '{"a": 1}'),
        ({"regex": "[a-z]+"}, "word. More", "word"),
    ],
)
def test_what_an_api_writes_beyond_a_constraint_is_cut(
    hole: dict[str, Any],
    written: str,
    kept: str,
    fake_api: MakeApi,
    connect: Callable[..., OpenAI],
) -> None:
    backend = connect(fake_api(lambda path, body: plain(written)), "gpt-3.5-turbo-instruct")
    program = bw.function(lambda: "Q" + bw.gen("a", **hole))
    assert program.run(backend=backend)["a"] == kept


def test_what_was_used_is_printed_by_name(
    fake_api: MakeApi, connect: Callable[..., OpenAI]
) -> None:
    backend = connect(fake_api(lambda path, body: chat("hello")))
    two_turns.run(question="Why?", backend=backend)
    assert repr(backend.token_usage) == (
        "TokenUsage(prompt_tokens=20, completion_tokens=6, saved_prompt_tokens=0, calls=2)"
    )
