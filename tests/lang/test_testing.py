"""The testing kit: scripts, recordings, and a runtime without a model."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import branchwork as bw
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import InvalidParameter, RequestError, RuntimeDied
from branchwork.testing import Answer, Recorder, Replayed, Scripted, mock_runtime

pytest_plugins = ["branchwork.lang.testing.fixtures"]


@bw.function
def program(s: bw.State, q: str) -> None:
    s += bw.user(q) + bw.assistant(bw.gen("a", return_logprob=True))
    forks = s.fork(2)
    forks += lambda i: f"{i}" + bw.gen("b") + bw.select("c", ["x", "y"])
    forks.join()


def test_a_script_answers_by_name_in_order_and_by_function(
    scripted: Callable[..., Scripted],
) -> None:
    scripted(a=["one", "two"], b=lambda asked: asked.prompt[-1], c="y")
    states = [program.run(q="?") for _ in range(3)]
    assert [state["a"] for state in states] == ["one", "two", "two"]
    assert states[0]["b"] == ["0", "1"]
    assert states[0]["c"] == ["y", "y"]


def test_a_script_can_fail_and_delay(scripted: Callable[..., Scripted]) -> None:
    scripted(a=Answer("late", delay_s=0.05), b=InvalidParameter("no"))
    with pytest.raises(InvalidParameter, match="no"):
        program.run(q="?")


def test_a_scripted_backend_that_has_died_stays_dead() -> None:
    backend = Scripted()
    backend.die()
    with pytest.raises(RuntimeDied):
        program.run(q="?", backend=backend)


def test_a_recording_gives_the_same_run_without_the_backend(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    counter = iter(range(1000))
    live = Scripted({"c": "y"}, default=lambda asked: f"answer {next(counter)}")
    recorder = Recorder(live, path)
    first = [program.run(q=q, backend=recorder) for q in ("one", "two", "one")]
    recorder.close()
    replayed = Replayed(path)
    again = [program.run(q=q, backend=replayed) for q in ("one", "two", "one")]
    assert [state.text() for state in again] == [state.text() for state in first]
    assert [state["b"] for state in again] == [state["b"] for state in first]
    assert again[1].get_meta_info("a") == first[1].get_meta_info("a")


def test_a_recording_holds_no_prompts(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    recorder = Recorder(Scripted({"a": "an answer"}), path)
    program.run(q="a secret question", backend=recorder)
    recorder.close()
    assert "an answer" in path.read_text()
    assert "secret" not in path.read_text()
    _, *lines = path.read_text().splitlines()
    assert all(set(json.loads(line)) == {"key", "events"} for line in lines)


def test_a_stream_and_a_batch_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    recorder = Recorder(Scripted(default="some words"), path)
    program.run_batch([str(i) for i in range(5)], backend=recorder)
    recorder.close()
    states = program.run_batch([str(i) for i in reversed(range(5))], backend=Replayed(path))
    assert [state["a"] for state in states] == ["some words"] * 5
    stream = program.run(q="3", backend=Replayed(path), stream=True)
    assert "".join(stream.text_iter("a")) == "some words"


def test_what_was_not_recorded_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    recorder = Recorder(Scripted(), path)
    program.run(q="one", backend=recorder)
    recorder.close()
    with pytest.raises(RequestError, match="the recording holds no answer after these words"):
        program.run(q="other", backend=Replayed(path))


# ---------------------------------------------------------------------- the mock runtime


@pytest.fixture(scope="module")
def mock() -> Iterator[Backend]:
    with mock_runtime() as backend:
        yield backend


@bw.function
def shapes(s: bw.State, q: str) -> None:
    s += bw.user(q)
    s += bw.assistant(bw.gen("free", 12))
    s += "Number: " + bw.gen("number", dtype=int, max_tokens=8) + "\nCode: "
    s += bw.gen("code", regex=r"[A-Z]{2}-[0-9]{3}") + " "
    s += bw.select("choice", ["left", "right"])
    s += bw.gen("record", type=dict[str, int], max_tokens=40)


def test_the_mock_runtime_holds_constraints_and_repeats_itself(mock: Backend) -> None:
    first, second = (shapes.run(q="same", temperature=0, backend=mock) for _ in range(2))
    assert first.text() == second.text()
    assert re.fullmatch(r"[-+]?[0-9]+", first["number"])
    assert re.fullmatch(r"[A-Z]{2}-[0-9]{3}", first["code"])
    assert first["choice"] in ("left", "right")
    assert isinstance(first["record"], dict)


def test_the_mock_runtime_shares_prefixes(mock: Backend) -> None:
    shared = "words to be shared by everyone " * 20
    states = shapes.run_batch([f"{shared}{i}" for i in range(8)], temperature=0, backend=mock)
    metas = [state.get_meta_info("free") for state in states]
    assert sum(meta["cached_tokens"] > 100 for meta in metas) >= 7
