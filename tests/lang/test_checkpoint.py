"""Batches that go on where they stopped."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import branchwork as bw
from branchwork.lang.testing.scripted import Asked, Scripted
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import (
    BranchworkError,
    InvalidParameter,
    ProgramError,
    RuntimeDied,
    RuntimeUnreachable,
)

MakeScript = Callable[..., Scripted]


@dataclass
class City:
    name: str


ran: list[int] = []


@bw.function
def describe(s: bw.State, i: int) -> int:
    ran.append(i)
    s += bw.user(f"City {i}?") + bw.assistant(bw.gen("city", type=City))
    s["twice"] = i * 2
    return i


def fails_at(i: int) -> Callable[[Asked], str | BranchworkError]:
    def answer(asked: Asked) -> str | BranchworkError:
        number = int(asked.prompt.partition("City ")[2].partition("?")[0])
        return InvalidParameter("no") if number == i else f'{{"name": "c{number}"}}'

    return answer


@pytest.mark.parametrize("mode", ["run_batch", "arun_batch"])
def test_a_batch_repeats_nothing_that_was_finished(
    script: MakeScript, tmp_path: Path, mode: str
) -> None:
    path = str(tmp_path / "done.jsonl")
    batch = [{"i": i} for i in range(6)]
    ran.clear()
    script(city=fails_at(3))
    with pytest.raises(InvalidParameter):
        describe.run_batch(batch, checkpoint=path, num_threads=1)
    assert ran == [0, 1, 2, 3]
    ran.clear()
    backend = script(city=fails_at(-1))
    if mode == "run_batch":
        states = describe.run_batch(batch, checkpoint=path)
    else:
        states = asyncio.run(describe.arun_batch(batch, checkpoint=path))
    assert ran == [3, 4, 5]
    assert sum(isinstance(each, wire.Gen) for each in backend.instructions) == 3
    assert [state["city"] for state in states] == [City(f"c{i}") for i in range(6)]
    assert [state["twice"] for state in states] == [0, 2, 4, 6, 8, 10]
    assert [state.ret_value for state in states] == list(range(6))
    assert states[1].messages() == [
        {"role": "user", "content": "City 1?"},
        {"role": "assistant", "content": '{"name": "c1"}'},
    ]
    assert states[1].error() is None


def test_a_line_that_was_cut_is_run_again(script: MakeScript, tmp_path: Path) -> None:
    path = tmp_path / "done.jsonl"
    script(city=fails_at(-1))
    describe.run_batch([{"i": 0}, {"i": 1}], checkpoint=str(path))
    path.write_bytes(path.read_bytes()[:-20])
    ran.clear()
    describe.run_batch([{"i": 0}, {"i": 1}], checkpoint=str(path))
    assert ran == [1]


def test_a_torn_line_does_not_spoil_the_one_after_it(script: MakeScript, tmp_path: Path) -> None:
    path = tmp_path / "done.jsonl"
    script(city=fails_at(-1))
    describe.run_batch([{"i": 0}], checkpoint=str(path))
    path.write_bytes(path.read_bytes()[:-9])
    describe.run_batch([{"i": 0}], checkpoint=str(path))
    ran.clear()
    describe.run_batch([{"i": 0}], checkpoint=str(path))
    assert ran == []


def test_equal_calls_are_told_apart(script: MakeScript, tmp_path: Path) -> None:
    path = str(tmp_path / "done.jsonl")
    script(city=fails_at(-1))
    describe.run_batch([{"i": 0}] * 2, checkpoint=path)
    ran.clear()
    assert len(describe.run_batch([{"i": 0}] * 3, checkpoint=path)) == 3
    assert ran == [0]


def test_arguments_that_cannot_be_written_are_refused(script: MakeScript, tmp_path: Path) -> None:
    script()
    with pytest.raises(
        ProgramError, match="checkpoint: the arguments of describe cannot be written"
    ):
        describe.run_batch([{"i": object()}], checkpoint=str(tmp_path / "x"))


# ---------------------------------------------------------------------- errors and retries of batches


@bw.function
def ask(s: bw.State, q: str) -> None:
    s += q + bw.gen("a")


def test_errors_can_be_returned_with_their_states(script: MakeScript) -> None:
    script(a=lambda asked: InvalidParameter("odd") if asked.prompt == "1" else "fine")
    states = ask.run_batch(["0", "1", "2"], on_error="return")
    assert [state.error() is None for state in states] == [True, False, True]
    assert states[2]["a"] == "fine"
    with pytest.raises(InvalidParameter, match="odd"):
        states[1]["a"]
    assert isinstance(states[1].error(), InvalidParameter)


def test_a_generator_gives_states_in_order_as_they_come(script: MakeScript) -> None:
    script(a=lambda asked: asked.prompt)
    states = ask.run_batch([str(i) for i in range(50)], generator_style=True, num_threads=4)
    assert next(states)["a"] == "0"
    assert [state["a"] for state in states] == [str(i) for i in range(1, 50)]


def test_num_threads_bounds_how_many_programs_run_at_once(script: MakeScript) -> None:
    script(delay_s=0.01)
    running = 0
    highest = 0

    @bw.function
    def body(s: bw.State) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        s += bw.gen("a")
        s["a"]
        running -= 1

    body.run_batch([{}] * 20, num_threads=3)
    assert highest == 3


def test_a_progress_bar_counts_programs(
    script: MakeScript, capsys: pytest.CaptureFixture[str]
) -> None:
    script()
    ask.run_batch(["x"] * 7, progress_bar=True)
    assert "7/7" in capsys.readouterr().err


def test_a_program_is_run_again_when_the_transport_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchwork.lang.run.RETRY_AFTER_S", 0.001)
    backends = [Scripted(), Scripted()]
    backends[0].die(RuntimeDied("gone"))
    alive = Scripted({"a": "back"})
    used = iter([*backends[:1], alive])
    monkeypatch.setattr("branchwork.lang.function.resolve", lambda given: next(used))
    assert ask.run(q="?", retries=1)["a"] == "back"


@pytest.mark.parametrize(
    "run",
    [
        lambda: ask.run_batch(["x", "y"], retries=1),
        lambda: asyncio.run(ask.arun_batch(["x", "y"], retries=1)),
    ],
    ids=["run_batch", "arun_batch"],
)
def test_who_waits_to_be_tried_again_does_not_block_the_thread_it_shares(
    run: Callable[[], list[bw.State]], script: MakeScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("branchwork.lang.run.RETRY_AFTER_S", 0.01)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the thread was blocked"))
    script(a=[RuntimeUnreachable("away"), "fine", "back"])
    assert [state["a"] for state in run()] == ["back", "fine"]


def test_a_batch_outlives_the_backend_on_which_its_programs_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("branchwork.lang.run.RETRY_AFTER_S", 0.01)
    dying = Scripted({"a": lambda asked: RuntimeUnreachable("away")})
    backends = [dying, dying, *[Scripted({"a": "back"})] * 2]
    monkeypatch.setattr("branchwork.lang.function.resolve", lambda given: backends.pop(0))
    monkeypatch.setattr(dying, "wait", Dying(dying).wait)
    states = ask.run_batch(["x", "y"], retries=1)
    assert [state["a"] for state in states] == ["back", "back"]


class Dying:
    """A backend that is gone once its answers are given: who waits on is told so."""

    def __init__(self, backend: Scripted) -> None:
        self._wait = backend.wait

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        if self._wait(ready, 0.0):
            return True
        raise RuntimeDied("gone")


def test_fewer_than_no_retries_are_refused(script: MakeScript) -> None:
    script()
    with pytest.raises(InvalidParameter, match="retries=-1: must be 0 or more"):
        ask.run(q="?", retries=-1)


def test_an_empty_batch_is_no_batch(script: MakeScript) -> None:
    script()
    assert ask.run_batch([]) == []
