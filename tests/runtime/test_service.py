"""The whole runtime over a small random model: process, socket, tokenizer, grammar, engine."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.make_model import make_model
from tests.make_tokenizer import byte_level

from branchwork.runtime.wire.client import Client
from branchwork.runtime.wire.errors import BranchworkError, ConfigError, ModelError, RuntimeDied
from branchwork.runtime.wire.launcher import RunningRuntime, launch
from branchwork.runtime.wire.messages import (
    Abort,
    Chat,
    ChatMessage,
    Close,
    Closed,
    Done,
    Ebnf,
    Event,
    Failed,
    Gen,
    JsonSchema,
    Open,
    Regex,
    Sampling,
    Select,
    StructuralTags,
    Tag,
    Text,
    Tokens,
)

Heard = list[Event | BranchworkError]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model")
    tokenizer = byte_level()
    make_model(path, "llama", vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=1024)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>"}
    (path / "tokenizer_config.json").write_bytes(msgspec.json.encode(settings))
    return path


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[RunningRuntime]:
    with launch(model=str(folder), threads=1, kv_slots=4096) as running:
        yield running


@pytest.fixture
def client(runtime: RunningRuntime) -> Iterator[Client]:
    joined = runtime.connect()
    yield joined
    joined.close()


def greedy(max_tokens: int, **more: object) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0, **more)  # type: ignore[arg-type]


def run(client: Client, *instructions: Text | Chat | Gen | Select) -> Heard:
    """Run instructions on a branch of their own (they name branch 0) until it is closed."""
    heard: Heard = []
    branch = client.new_branch(heard.append)
    body = [msgspec.structs.replace(item, branch=branch) for item in instructions]
    client.send([Open(branch), *body, Close(branch)])
    assert client.wait(lambda: any(isinstance(event, Closed) for event in heard), 60)
    return heard


def done(heard: Heard) -> dict[str, Done]:
    return {event.slot: event for event in heard if isinstance(event, Done)}


def test_a_program_with_every_kind_of_slot(client: Client) -> None:
    slots = done(
        run(
            client,
            Chat(0, (ChatMessage("user", "the quick <|im_end|> brown fox"),)),
            Gen(0, "free", greedy(5)),
            Text(0, " and then "),
            Gen(0, "regex", greedy(20), constraint=Regex("[a-c]{5}")),
            Gen(0, "json", greedy(60), constraint=JsonSchema('{"type": "boolean"}')),
            Select(0, "choice", ("Paris", "Rome")),
        )
    )
    assert set(slots) == {"free", "regex", "json", "choice"}
    assert slots["free"].usage.completion <= 5
    assert len(slots["regex"].text) == 5
    assert set(slots["regex"].text) <= set("abc")
    assert slots["json"].text in ("true", "false")
    assert slots["choice"].text in ("Paris", "Rome")


def test_free_text_goes_into_a_tag_at_its_trigger_and_out_at_its_end(client: Client) -> None:
    tags = StructuralTags((Tag("<call>", JsonSchema('{"type": "boolean"}'), "</call>"),), ("<",))
    (trigger,) = byte_level().encode("<", add_special_tokens=False).ids
    sampling = greedy(40, logit_bias=((trigger, 100.0),))
    text = done(run(client, Text(0, "the"), Gen(0, "x", sampling, constraint=tags)))["x"].text
    calls = r"<call>(?:true|false)</call>"
    assert re.search(calls, text), text
    # Outside of the tags anything may stand but what begins one.
    assert "<" not in re.sub(calls, "", text)


def test_outlines_core_serves_what_it_can_and_refuses_the_rest(folder: Path) -> None:
    with launch(model=str(folder), threads=1, kv_slots=4096, grammar_backend="outlines") as runtime:
        client = runtime.connect()
        heard = run(
            client,
            Gen(0, "regex", greedy(20), constraint=Regex("[a-c]{5}")),
            Gen(0, "json", greedy(20), constraint=JsonSchema('{"type": "boolean"}')),
            Gen(0, "ebnf", greedy(20), constraint=Ebnf('root ::= "a"')),
        )
        client.close()
    slots = done(heard)
    assert re.fullmatch("[a-c]{5}", slots["regex"].text)
    assert slots["json"].text in ("true", "false")
    (refused,) = [event for event in heard if isinstance(event, Failed)]
    assert refused.slot == "ebnf"
    assert "outlines-core" in refused.message


def test_streamed_bytes_are_the_text(client: Client) -> None:
    heard = run(client, Text(0, "the"), Gen(0, "x", greedy(30), stream=True))
    data = b"".join(event.data for event in heard if isinstance(event, Tokens))
    assert data.decode("utf-8", "replace") == done(heard)["x"].text


def test_greedy_text_is_the_same_cold_and_warm_and_among_others(client: Client) -> None:
    alone = done(run(client, Text(0, "the quick"), Gen(0, "x", greedy(20))))["x"].text
    branches: dict[int, Heard] = {}
    for _ in range(8):
        heard: Heard = []
        branch = client.new_branch(heard.append)
        branches[branch] = heard
        client.send([Open(branch), Text(branch, "the quick"), Gen(branch, "x", greedy(20))])
    assert client.wait(lambda: all(done(heard) for heard in branches.values()), 60)
    assert {done(heard)["x"].text for heard in branches.values()} == {alone}
    client.send([Close(branch) for branch in branches])


def test_a_long_text_is_served_in_its_order(client: Client) -> None:
    text = "the lazy dog " * 200
    slots = done(run(client, Text(0, text), Gen(0, "x", greedy(1)), Gen(0, "y", greedy(1))))
    assert slots["x"].usage.prompt + slots["x"].usage.completion == slots["y"].usage.prompt


@pytest.mark.parametrize(
    ("gen", "code", "words"),
    [
        (Gen(0, "x", constraint=Regex("[0-9]+(")), "invalid_constraint", "position"),
        (Gen(0, "x", constraint=JsonSchema("{")), "invalid_constraint", ""),
        (Gen(0, "x", Sampling(temperature=9.0)), "invalid_parameter", "temperature"),
        (Gen(0, "x", Sampling(stop_token_ids=(10**6,))), "invalid_parameter", "vocabulary"),
    ],
    ids=["regex", "schema", "sampling", "token"],
)
def test_a_bad_slot_fails_alone(client: Client, gen: Gen, code: str, words: str) -> None:
    heard = run(client, Text(0, "the"), gen)
    (failed,) = [event for event in heard if isinstance(event, Failed)]
    assert failed.code == code
    assert words in failed.message
    assert "x" in done(run(client, Text(0, "the"), Gen(0, "x", greedy(1))))


def test_a_prompt_longer_than_the_context_names_both_numbers(client: Client) -> None:
    (failed,) = [
        event
        for event in run(client, Text(0, "the lazy dog " * 2000), Gen(0, "x"))
        if isinstance(event, Failed)
    ]
    assert failed.code == "too_long"
    assert "1024" in failed.message.replace(" ", "").replace("\u202f", "")


def test_an_aborted_slot_ends_in_its_one_failed(client: Client) -> None:
    heard: Heard = []
    branch = client.new_branch(heard.append)
    client.send([Open(branch), Text(branch, "the"), Gen(branch, "x", Sampling(max_tokens=900))])
    client.send([Abort(branch)])
    assert client.wait(lambda: any(isinstance(event, Closed) for event in heard), 60)
    ends = [event for event in heard if isinstance(event, Done | Failed)]
    assert len(ends) == 1


def test_requests_are_answered(client: Client) -> None:
    stats = msgspec.json.decode(client.request("stats"))
    assert stats["slots_free"] + stats["slots_cached"] + stats["slots_locked"] == 4096
    token_ids = msgspec.json.decode(client.request("tokenize", '{"text": "the fox"}'))["token_ids"]
    body = msgspec.json.encode({"token_ids": token_ids}).decode()
    assert msgspec.json.decode(client.request("detokenize", body)) == {"text": "the fox"}


def test_the_memory_of_clients_that_leave_comes_back(runtime: RunningRuntime) -> None:
    for _ in range(5):
        leaving = runtime.connect()
        branch = leaving.new_branch(lambda event: None)
        leaving.send(
            [Open(branch), Text(branch, "the"), Gen(branch, "x", Sampling(max_tokens=900))]
        )
        leaving.close()
    client = runtime.connect()

    def is_free() -> bool:
        stats = msgspec.json.decode(client.request("stats"))
        return bool(stats["slots_locked"] == 0 and stats["branches"] == 0)

    assert any(is_free() or client.wait(lambda: False, 0.1) for _ in range(300))
    client.close()


def test_a_runtime_killed_in_mid_stream_tells_every_waiter(folder: Path) -> None:
    with launch(model=str(folder), threads=1, kv_slots=4096) as runtime:
        client = runtime.connect()
        streams: list[Heard] = []
        for _ in range(10):
            heard: Heard = []
            streams.append(heard)
            branch = client.new_branch(heard.append)
            gen = Gen(branch, "x", Sampling(max_tokens=900, ignore_eos=True), stream=True)
            client.send([Open(branch), Text(branch, "the"), gen])
        assert client.wait(lambda: all(streams), 60)
        errors: list[BranchworkError] = []

        def wait() -> None:
            try:
                client.wait(lambda: False)
            except BranchworkError as error:
                errors.append(error)

        threads = [threading.Thread(target=wait) for _ in range(10)]
        for thread in threads:
            thread.start()
        runtime.kill()
        for thread in threads:
            thread.join(30)
        assert [type(error) for error in errors] == [RuntimeDied] * 10
        assert all(isinstance(heard[-1], RuntimeDied) for heard in streams)
        client.close()


def test_a_folder_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        launch(model=str(tmp_path / "absent"))
    with pytest.raises(ModelError, match=r"config\.json"):
        launch(model=str(tmp_path))


def test_a_length_the_model_was_not_made_for_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--max-len 4096: .* was made for 1024 tokens"):
        launch(model=str(folder), max_len=4096, kv_slots=4096)
