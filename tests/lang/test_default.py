"""Which backend a program runs against, and SGLang's offline engine."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import branchwork as bw
from branchwork.lang import default, run
from branchwork.runtime.wire.errors import ProgramError, RuntimeDied, UnknownOption
from branchwork.testing import Scripted


@pytest.fixture(autouse=True)
def no_default() -> Iterator[None]:
    before = bw.global_config.default_backend
    bw.set_default_backend(None)
    yield
    bw.set_default_backend(before)


class Embedded(Scripted):
    """A script in the place of the embedded runtime."""

    alive = True


def started_runtimes(monkeypatch: pytest.MonkeyPatch) -> list[Embedded]:
    """The runtimes that are started from here on."""
    started: list[Embedded] = []

    def start() -> Embedded:
        started.append(Embedded())
        return started[-1]

    monkeypatch.setattr(default, "Runtime", start)
    return started


@bw.function
def ask(s: bw.State) -> None:
    s += bw.gen("a")


def test_the_first_program_starts_the_embedded_runtime_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = started_runtimes(monkeypatch)
    threads = [threading.Thread(target=ask.run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1


def test_a_program_after_the_death_of_the_embedded_runtime_starts_a_fresh_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = started_runtimes(monkeypatch)
    assert ask.run()["a"] == "ok"
    started[0].alive = False
    started[0].die(RuntimeDied("killed by SIGKILL"))
    assert ask.run()["a"] == "ok"
    assert len(started) == 2


@pytest.mark.slow
def test_a_program_after_a_real_kill_of_the_embedded_runtime_runs_on_a_fresh_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bw.global_config, "embedded", None)

    @bw.function
    def count(s: bw.State) -> None:
        s += "1 2 3"
        s += bw.gen("a", max_tokens=8, temperature=0)

    before = count.run()["a"]
    first = bw.global_config.embedded
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    while first.alive:  # a program that begins before it is dead is told of its death
        time.sleep(0.001)
    assert count.run()["a"] == before
    fresh = bw.global_config.embedded
    assert fresh is not None
    assert fresh.pid != first.pid
    states = count.run_batch([{}] * 4)
    assert [state["a"] for state in states] == [before] * 4
    fresh.close()
    first.close()


def test_a_retry_after_the_death_of_the_embedded_runtime_runs_on_a_fresh_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = started_runtimes(monkeypatch)
    monkeypatch.setattr(run, "RETRY_AFTER_S", 0.0)

    @bw.function
    def killing(s: bw.State) -> None:
        if len(started) == 1:
            started[0].alive = False
            started[0].die(RuntimeDied("killed by SIGKILL"))
        s += bw.gen("a")

    states = killing.run_batch([{}, {}], retries=1)
    assert [state["a"] for state in states] == ["ok", "ok"]
    assert len(started) == 2


def test_a_backend_that_was_set_is_not_replaced_when_it_dies() -> None:
    backend = Scripted()
    bw.set_default_backend(backend)
    backend.die(RuntimeDied("killed by SIGKILL"))
    with pytest.raises(RuntimeDied, match="killed by SIGKILL"):
        ask.run()


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
