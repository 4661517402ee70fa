"""Which backend a program runs against, and SGLang's offline engine."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import branchwork as bw
from branchwork.lang import default
from branchwork.runtime.wire.errors import ProgramError, UnknownOption
from branchwork.testing import Scripted


@pytest.fixture(autouse=True)
def no_default() -> Iterator[None]:
    before = bw.global_config.default_backend
    bw.set_default_backend(None)
    yield
    bw.set_default_backend(before)


@bw.function
def ask(s: bw.State) -> None:
    s += bw.gen("a")


def test_the_first_program_starts_the_embedded_runtime_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Scripted] = []

    def start() -> Scripted:
        started.append(Scripted())
        return started[-1]

    monkeypatch.setattr(default, "Runtime", start)
    threads = [threading.Thread(target=ask.run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1


def test_an_endpoint_inside_a_runtime_is_the_backend() -> None:
    class Wrapped:
        endpoint = Scripted({"a": "inside"})

    assert ask.run(backend=Wrapped())["a"] == "inside"  # type: ignore[arg-type]


def test_what_is_no_backend_is_refused() -> None:
    with pytest.raises(ProgramError, match="backend must be a Runtime"):
        ask.run(backend="http://localhost:8000")  # type: ignore[arg-type]


def test_options_of_the_reference_runtime_are_understood() -> None:
    given = {"tp_size": 1, "max_total_tokens": 100, "disable_radix_cache": True, "threads": 2}
    assert default._translated(given) == {"kv_slots": 100, "prefix_cache": False, "threads": 2}


def test_an_unknown_option_of_a_runtime_names_the_nearest() -> None:
    with pytest.raises(UnknownOption, match=r"max_lenn; did you mean max_len\?"):
        bw.Runtime(max_lenn=3)


def test_without_a_backend_there_is_nothing_to_flush() -> None:
    assert bw.flush_cache() is False
    assert bw.get_server_info() is None


class OfflineEngine(bw.Engine):
    """An engine over a script instead of a process."""

    def __init__(self, backend: Scripted) -> None:
        self._client = backend
        self.chat_template = None


@pytest.fixture
def engine() -> OfflineEngine:
    answers: dict[str, Callable[[Any], str]] = {"text": lambda asked: asked.prompt.upper()}
    return OfflineEngine(Scripted(answers))


def test_the_offline_engine_completes_texts(engine: OfflineEngine) -> None:
    one = engine.generate("hello", {"temperature": 0.8, "max_new_tokens": 4})
    assert one["text"] == "HELLO"
    assert one["meta_info"]["completion_tokens"] == len(one["output_ids"]) == 1
    many = engine.generate(["a", "b"], [{"n": 1}, {"top_p": 0.9}])
    assert [each["text"] for each in many] == ["A", "B"]
    assert asyncio.run(engine.async_generate(["c"]))[0]["text"] == "C"
    with pytest.raises(ProgramError, match="1 sampling_params for 2 prompts"):
        engine.generate(["a", "b"], [{}])
