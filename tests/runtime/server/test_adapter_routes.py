"""A request names an adapter as a model of its own, on every route."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.runtime.server.fake import WELCOME, FakeBackend

from branchwork.runtime.server.batch import run_batch
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.serve import serve
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.messages import Open

HI = [{"role": "user", "content": "hi"}]

ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/chat/completions", {"messages": HI, "n": 3}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/completions", {"prompt": [[1, 2], [3]], "echo": True, "logprobs": 1}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {"messages": HI, "max_tokens": 5}),
    ("/v1/embeddings", {"input": ["hi", "there"]}),
    ("/v1/score", {"prompt": "hi", "choices": ["a", "b"]}),
    ("/v1/score", {"query": "hi", "items": "ab", "label_token_ids": [97, 98]}),
    ("/v1/score", {"text_1": "hi", "text_2": ["a", "b"]}),
]
"""What computes something."""

OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("/tokenize", {"prompt": "hi"}),
    ("/detokenize", {"tokens": [104]}),
    ("/v1/messages/count_tokens", {"messages": HI}),
]


def ids(routes: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [f"{path} {'+'.join(body)}" for path, body in routes]


def adapted() -> FakeBackend:
    return FakeBackend(welcome=msgspec.structs.replace(WELCOME, adapters=("poet", "org/sql:1")))


@pytest.fixture
def server(serving: Any) -> Any:
    return serving(backend=adapted())


def opened(server: Any) -> set[str]:
    """The adapters of the branches that are nobody's forks; a fork names none."""
    opens = [each for frame in server.backend.frames for each in frame if isinstance(each, Open)]
    assert all(not each.adapter for each in opens if each.parent is not None)
    return {each.adapter for each in opens if each.parent is None}


def test_the_models_are_the_model_and_one_for_each_adapter(server: Any) -> None:
    cards = server.get("/v1/models").json()["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [
        ("fake", None), ("poet", "fake"), ("org/sql:1", "fake")
    ]  # fmt: skip
    assert server.get("/v1/models/org/sql:1").json() == cards[2]
    assert server.get("/v1/models/sql").status_code == 404


@pytest.mark.parametrize(("path", "body"), ROUTES, ids=ids(ROUTES))
@pytest.mark.parametrize("name", ["poet", "org/sql:1"])
def test_the_model_of_a_request_may_be_an_adapter(
    server: Any, path: str, body: dict[str, Any], name: str
) -> None:
    answer = server.post(path, {**body, "model": name})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == name
    assert opened(server) == {name}


@pytest.mark.parametrize(("path", "body"), ROUTES, ids=ids(ROUTES))
@pytest.mark.parametrize("name", [None, "fake"])
def test_without_one_the_model_is_the_model_as_it_is(
    server: Any, path: str, body: dict[str, Any], name: str | None
) -> None:
    assert server.post(path, {**body, "model": name}).json()["model"] == "fake"
    assert opened(server) == {""}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_stream_names_its_adapter(server: Any, path: str) -> None:
    ask = {"messages": HI, "input": "hi", "max_tokens": 16, "stream": True, "model": "poet"}
    assert '"model":"poet"' in server.post(path, ask).text
    assert opened(server) == {"poet"}


@pytest.mark.parametrize(("path", "body"), [*ROUTES, *OTHERS], ids=ids([*ROUTES, *OTHERS]))
def test_a_model_that_is_none_of_them_is_answered_with_their_names(
    server: Any, path: str, body: dict[str, Any]
) -> None:
    answer = server.post(path, {**body, "model": "poets"})
    assert answer.status_code == 404
    said = "the model 'poets' does not exist; this server has fake, poet, org/sql:1"
    assert answer.json()["error"]["message"] == said
    assert server.backend.frames == []


@pytest.mark.parametrize(("path", "body"), OTHERS, ids=ids(OTHERS))
def test_what_an_adapter_changes_nothing_of_is_answered_under_its_name_too(
    server: Any, path: str, body: dict[str, Any]
) -> None:
    assert server.post(path, {**body, "model": "poet"}).json() == server.post(path, body).json()


def test_many_names_are_not_all_said(serving: Any) -> None:
    names = tuple(f"adapter-{number}" for number in range(200))
    server = serving(backend=FakeBackend(welcome=msgspec.structs.replace(WELCOME, adapters=names)))
    message = server.post("/v1/completions", {"prompt": "a", "model": "x"}).json()["error"][
        "message"
    ]
    assert message.endswith("adapter-14, …")


def test_sglangs_lora_path_is_one_for_all_prompts_or_one_for_each(server: Any) -> None:
    assert server.post("/generate", {"text": "hi", "lora_path": "poet"}).status_code == 200
    assert opened(server) == {"poet"}
    paths = ["org/sql:1", None, ""]
    server.post("/generate", {"text": ["a", "b", "c"], "lora_path": paths})
    last = [each.adapter for each in server.backend.frames[-1] if isinstance(each, Open)]
    assert last == ["org/sql:1", "", ""]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("sql", "there is no adapter 'sql'; there are poet, org/sql:1"),
        (["poet", "poet"], "lora_path has 2 entries for 1 prompts"),
    ],
)
def test_a_lora_path_that_is_no_adapter_is_refused(server: Any, path: Any, said: str) -> None:
    answer = server.post("/generate", {"text": "hi", "lora_path": path})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, said)
    assert answer.json()["error"]["param"] == "lora_path"


def test_what_runs_and_what_is_cached_is_shown_under_the_adapters_names(server: Any) -> None:
    def report(what: str, body: str = "{}", timeout_s: float | None = None) -> str:
        tree = {"nodes": [], "adapters": [0, 2], "tokens": 0}
        whole = {"requests": [{"adapter": 1}], "tree": tree, "texts": []}
        return msgspec.json.encode(whole).decode()

    server.backend.request = report
    shown = server.get("/server/inspect").json()
    assert shown["requests"] == [{"adapter": "poet"}]
    assert shown["tree"]["adapters"] == ["", "org/sql:1"]


def test_a_line_of_a_batch_names_its_adapter(tmp_path: Any) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    backend = adapted()
    lines = [
        {"custom_id": name or "none", "method": "POST", "url": "/v1/completions",
         "body": {"prompt": name, **({"model": name} if name else {})}}
        for name in ("poet", "", "nobody")
    ]  # fmt: skip
    source.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    result = run_batch(source, target, lambda: Process(backend), progress=False)
    assert (result.answered, result.failed) == (2, 1)
    asked = {each[1].text: each[0].adapter for each in backend.frames}  # type: ignore[union-attr]
    assert asked == {"poet": "poet", "": ""}


class Process:
    """A runtime's process, as a supervisor sees it."""

    alive, pid = True, 0

    def __init__(self, backend: FakeBackend) -> None:
        self.connect: Callable[[str], FakeBackend] = lambda name: backend

    def ending(self) -> str:
        return ""

    def close(self, drain_s: float = 5.0) -> None: ...

    def kill(self) -> None: ...


def test_a_name_that_means_both_the_model_and_an_adapter_is_refused_at_the_start() -> None:
    runtime = RuntimeConfig(adapters=(("poet", "folder"),))
    with pytest.raises(ConfigError, match="--served-model-name poet: an adapter has this name"):
        serve(ServerConfig(served_model_name="sprout, poet"), runtime)
