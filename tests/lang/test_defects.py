"""What programs of the reference frontend suffer from, each as a test that ours do not."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

import branchwork as bw
from branchwork.lang.testing.scripted import Answer, Scripted
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import (
    Aborted,
    DeadlineExceeded,
    InvalidParameter,
    ProgramError,
    RuntimeDied,
)

MakeScript = Callable[..., Scripted]


@bw.function
def ask(s: bw.State, question: str) -> None:
    s += "Q: " + question + "\nA:" + bw.gen("answer", stop="\n")


MODES: dict[str, Callable[..., object]] = {
    "run": lambda **options: ask.run(question="?", **options),
    "run_batch": lambda **options: ask.run_batch([{"question": "?"}] * 3, **options),
    "arun": lambda **options: asyncio.run(ask.arun(question="?", **options)),
    "stream": lambda **options: list(ask.run(question="?", stream=True, **options).text_iter()),
}


@bw.function
def ask_twice(s: bw.State) -> None:
    s += bw.gen("first")
    s += "It is " + s["first"] + bw.gen("second")


def test_a_backend_error_ends_the_program_and_never_hangs(script: MakeScript) -> None:
    script(first=InvalidParameter("temperature must not be negative", "temperature"))
    with pytest.raises(InvalidParameter, match="temperature must not be negative"):
        ask_twice.run()


def test_a_slot_behind_another_branchs_answer_fails_with_its_own_branch(script: MakeScript) -> None:
    script(slow=Answer("x", delay_s=0.05), bad=InvalidParameter("no"))

    @bw.function
    def body(s: bw.State) -> None:
        forks = s.fork(1)
        forks += bw.gen("slow")
        s += bw.gen("bad")
        forks.join("concate_and_append")
        s += bw.gen("after")  # not asked for when "bad" fails

    with pytest.raises(InvalidParameter, match='gen\\("bad"\\) - no'):
        body.run(timeout=60)


def test_a_backend_error_reaches_every_mode(script: MakeScript) -> None:
    script(first=InvalidParameter("no"))
    with pytest.raises(InvalidParameter):
        ask_twice.run_batch([{}] * 3)
    with pytest.raises(InvalidParameter):
        asyncio.run(ask_twice.arun())
    with pytest.raises(InvalidParameter):
        "".join(ask_twice.run(stream=True).text_iter())
    with pytest.raises(InvalidParameter):
        ask_twice.run(stream=True)["second"]


def test_an_exception_in_the_body_reaches_the_caller_in_every_mode(script: MakeScript) -> None:
    script()

    @bw.function
    def broken(s: bw.State) -> None:
        s += "Q" + bw.gen("a")
        raise ZeroDivisionError("the author's own")

    with pytest.raises(ZeroDivisionError):
        broken.run()
    with pytest.raises(ZeroDivisionError):
        broken.run_batch([{}, {}])
    with pytest.raises(ZeroDivisionError):
        list(broken.run_batch([{}, {}], generator_style=True))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(broken.arun())
    state = broken.run(stream=True)
    with pytest.raises(ZeroDivisionError):
        list(state.text_iter())
    with pytest.raises(ZeroDivisionError):
        state["never"]
    assert isinstance(state.error(), ZeroDivisionError)


def test_a_body_that_fails_leaves_no_branch_open(script: MakeScript) -> None:
    backend = script(delay_s=5.0)

    @bw.function
    def broken(s: bw.State) -> None:
        s.fork(3)
        s += bw.gen("a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken.run()
    assert backend.num_open == 0


def test_the_callers_stop_list_is_never_changed(script: MakeScript) -> None:
    script()
    stop = ["\n"]

    @bw.function
    def program(s: bw.State) -> None:
        s += bw.gen("a", stop=stop)
        s += bw.gen("b", dtype=int)

    program.run(stop=stop)
    assert stop == ["\n"]


def test_200_programs_at_once_need_no_200_threads(script: MakeScript) -> None:
    script(delay_s=0.05)
    seen = set()

    @bw.function
    def program(s: bw.State) -> None:
        s += bw.gen("a")
        seen.add(threading.active_count())
        s["a"]

    before = threading.active_count()
    program.run_batch([{}] * 200)
    assert max(seen) <= before + 1


def test_1000_programs_wait_at_the_same_time_in_one_thread(script: MakeScript) -> None:
    script(delay_s=0.2)
    begin = time.monotonic()
    states = ask_twice.run_batch([{}] * 1000)
    assert len(states) == 1000
    assert time.monotonic() - begin < 100  # one after another they would take 400 s


def test_streams_that_do_not_wait_need_no_thread_each(script: MakeScript) -> None:
    script(delay_s=0.3)
    before = threading.active_count()
    states = [ask.run(question=str(i), stream=True) for i in range(100)]
    deadline = time.monotonic() + 60
    while threading.active_count() > before + 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before + 10
    assert ["".join(state.text_iter("answer")) for state in states] == ["ok"] * 100


def test_async_programs_run_together_on_one_loop(script: MakeScript) -> None:
    script(delay_s=0.05)

    @bw.function
    async def program(s: bw.AsyncState, i: int) -> str:
        s += f"{i}: " + bw.gen("a")
        first = await s["a"]
        s += first + bw.gen("b")
        return f"{i} {await s.get('b')}"

    async def main() -> list[str]:
        states = await asyncio.gather(*(program.arun(i=i) for i in range(200)))
        return [state.ret_value for state in states]

    assert asyncio.run(main()) == [f"{i} ok" for i in range(200)]


def test_cancelling_frees_the_branch_at_once(script: MakeScript) -> None:
    backend = script(answer=Answer("late", delay_s=60.0))

    async def main() -> None:
        task = asyncio.create_task(ask.arun(question="?"))
        await asyncio.sleep(0.02)
        assert backend.num_open == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.02)

    asyncio.run(main())
    assert backend.num_open == 0
    assert any(isinstance(each, wire.Abort) for each in backend.instructions)


def test_a_stream_can_be_cancelled(script: MakeScript) -> None:
    backend = script(answer=Answer("late", delay_s=60.0))
    state = ask.run(question="?", stream=True)
    while not backend.num_open:
        time.sleep(0.005)
    state.cancel()
    with pytest.raises((Aborted, ProgramError)):
        list(state.text_iter("answer"))
    assert backend.num_open == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_ends_the_program_and_frees_its_memory(script: MakeScript, mode: str) -> None:
    backend = script(answer=Answer("late", delay_s=60.0))
    with pytest.raises(DeadlineExceeded):
        MODES[mode](timeout=0.05)
    assert backend.num_open == 0


def test_the_deadline_also_travels_with_each_slot(script: MakeScript) -> None:
    backend = script()
    ask.run(question="?", timeout=1000.0)
    (gen,) = [each for each in backend.instructions if isinstance(each, wire.Gen)]
    assert gen.deadline_s is not None
    assert 900 < gen.deadline_s <= 1000


@pytest.mark.parametrize("mode", MODES)
def test_a_backend_that_dies_ends_every_wait(script: MakeScript, mode: str) -> None:
    backend = script(answer=Answer("late", delay_s=60.0))
    threading.Timer(0.05, backend.die).start()
    with pytest.raises(RuntimeDied):
        MODES[mode]()


def test_no_text_is_sent_twice(script: MakeScript) -> None:
    backend = script(first="Paris")
    ask_twice.run()
    texts = [each.text for each in backend.instructions if isinstance(each, wire.Text)]
    assert "".join(texts) == "It is Paris"


def test_a_fork_sends_no_text(script: MakeScript) -> None:
    backend = script()

    @bw.function
    def program(s: bw.State) -> None:
        s += "word " * 10_000
        s += bw.gen("a")
        sent = len(backend.frames)
        forks = s.fork(8)
        assert all(isinstance(each, wire.Open) for each in backend.frames[sent])
        assert len(backend.frames) == sent + 1
        forks += bw.gen("b")
        forks.join()

    program.run()
    assert (
        sum(len(each.text) for each in backend.instructions if isinstance(each, wire.Text))
        == 50_000
    )


def test_select_is_one_message(script: MakeScript) -> None:
    backend = script()

    @bw.function
    def program(s: bw.State) -> None:
        s += "?" + bw.select("a", ["yes", "no", "maybe"])

    program.run()
    kinds = [type(each).__name__ for each in backend.instructions]
    assert kinds == ["Open", "Text", "Select", "Close"]


def test_a_gen_in_an_f_string_is_a_gen(script: MakeScript) -> None:
    script(city="Paris")

    @bw.function
    def program(s: bw.State) -> None:
        s += f"The capital is {bw.gen('city')}, " + "truly {}.".format(bw.gen("sure"))
        s += bw.user(f"And {bw.gen('more')}?")

    state = program.run()
    assert state.text() == "The capital is Paris, truly ok.<|im_start|>user\nAnd ok?<|im_end|>\n"


def test_a_width_in_an_f_string_is_refused() -> None:
    with pytest.raises(ProgramError, match="format like '>10'"):
        f"{bw.gen('x'):>10}"


def test_an_unawaited_read_never_gets_into_a_prompt(script: MakeScript) -> None:
    script()

    @bw.function
    async def program(s: bw.AsyncState) -> None:
        s += bw.gen("a")
        s += f"It is {s['a']}"

    with pytest.raises(ProgramError, match=r'await s\["a"\]'):
        program.run()


def test_a_role_closes_itself_when_its_block_raises(script: MakeScript) -> None:
    script()

    @bw.function
    def program(s: bw.State) -> None:
        try:
            with s.user():
                s += "first"
                raise ValueError
        except ValueError:
            pass
        s += bw.assistant(bw.gen("answer"))

    messages = program.run().messages()
    assert messages == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "ok"},
    ]
