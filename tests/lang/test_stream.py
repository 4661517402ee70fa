"""Reading a program while it runs."""

import asyncio
import time
from collections.abc import Callable

import pytest
from tests.lang.paced import Paced

import branchwork as bw
from branchwork.lang.testing.scripted import Answer, Scripted
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import ProgramError, SlotError

MakeScript = Callable[..., Scripted]


@bw.function
def story(s: bw.State) -> None:
    s += "Once " + bw.gen("begin")
    s += ". Then, after " + s["begin"] + ": " + bw.gen("end") + "."


def test_all_text_comes_in_order_constants_and_answers(script: MakeScript) -> None:
    script(begin="upon a time", end="all was well")
    state = story.run(stream=True)
    assert "".join(state.text_iter()) == "Once upon a time. Then, after upon a time: all was well."


def test_one_slot_can_be_read_word_by_word() -> None:
    backend = Paced(begin=Answer("upon a time", delay_s=1e-9), end="all was well")
    state = story.run(stream=True, backend=backend)
    assert list(backend.one_by_one(state.text_iter("end"))) == ["all", " was", " well"]
    assert all(each.stream for each in backend.instructions if isinstance(each, wire.Gen))


def test_a_run_that_is_not_streamed_asks_for_no_stream(script: MakeScript) -> None:
    backend = script()
    story.run()
    assert not any(each.stream for each in backend.instructions if isinstance(each, wire.Gen))


def test_a_finished_state_can_be_iterated_too(script: MakeScript) -> None:
    script(begin="upon", end="well")
    assert list(story.run().text_iter("end")) == ["well"]
    assert "".join(story.run().text_iter()) == "Once upon. Then, after upon: well."


def test_a_stream_of_an_unknown_slot_ends_with_the_body(script: MakeScript) -> None:
    script()
    with pytest.raises(SlotError, match="no slot named 'middle'"):
        list(story.run(stream=True).text_iter("middle"))


def test_values_of_a_streamed_program_can_be_read_as_soon_as_they_are_there() -> None:
    backend = Paced(begin=Answer("upon", delay_s=1e-9), end="late")
    state = story.run(stream=True, backend=backend)
    assert state["begin"] == "upon"  # though the end does not come
    for _ in ("the word", "its end"):
        backend.release()
    assert state["end"] == "late"
    assert state.text().endswith("late.")
    assert state.error() is None


def test_an_async_stream_yields_text_and_numbers() -> None:
    backend = Paced(begin="upon a time")

    async def main() -> list[tuple[str, dict[str, object]]]:
        state = await story.arun(stream=True, return_logprob=True, backend=backend)
        pairs = []
        await asyncio.to_thread(backend.release)
        async for pair in state.text_async_iter("begin", return_meta_data=True):
            pairs.append(pair)
            await asyncio.to_thread(backend.release)
        return pairs

    pairs = asyncio.run(main())
    assert [text for text, _ in pairs] == ["upon", " a", " time"]
    counts = [len(meta["output_token_logprobs"]) for _, meta in pairs]  # type: ignore[arg-type]
    assert counts == [1, 1, 1]  # each pair tells of the tokens that came with its text
    assert [meta["completion_tokens"] for _, meta in pairs] == [1, 2, 3]
    assert [meta["output_token_logprobs_length"] for _, meta in pairs] == [1, 2, 3]


def test_an_async_body_can_be_streamed(script: MakeScript) -> None:
    script(a="one two", b="three")

    @bw.function
    async def body(s: bw.AsyncState) -> None:
        s += bw.gen("a")
        s += ", " + await s["a"] + ", " + bw.gen("b")

    async def main() -> str:
        state = await body.arun(stream=True)
        return "".join([text async for text in state.text_async_iter()])

    assert asyncio.run(main()) == "one two, one two, three"


def test_who_breaks_off_an_async_stream_is_told_how_to_wait_for_a_value(
    script: MakeScript,
) -> None:
    script(begin="upon a time", end="well", delay_s=0.1)

    async def main() -> str:
        state = await story.arun(stream=True)
        async for _ in state.text_async_iter("begin"):
            break
        with pytest.raises(ProgramError, match="read the stream to its end first"):
            state["end"]
        with pytest.raises(ProgramError, match="read the stream to its end first"):
            list(state.text_iter())
        async for _ in state.text_async_iter():
            pass
        return str(state["end"])

    assert asyncio.run(main()) == "well"


def test_a_plain_stream_can_be_read_from_a_loop(script: MakeScript) -> None:
    script(begin="upon", end="well")

    async def main() -> str:
        state = story.run(stream=True)
        return "".join([text async for text in state.text_async_iter()])

    assert asyncio.run(main()) == "Once upon. Then, after upon: well."


def test_a_hundred_async_streams_share_one_loop(script: MakeScript) -> None:
    script(begin="upon a time", end="well", delay_s=0.05)

    async def one() -> str:
        state = await story.arun(stream=True)
        return "".join([text async for text in state.text_async_iter()])

    async def main() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(100)))

    assert set(asyncio.run(main())) == {"Once upon a time. Then, after upon a time: well."}


def test_a_character_split_over_tokens_is_never_replaced() -> None:
    cut = "é".encode()
    slot_events = [wire.Tokens(1, "a", b"caf" + cut[:1]), wire.Tokens(1, "a", cut[1:])]

    class Cutting(Paced):
        def _generate(self, branch, gen, answer, prompt_len, delay_s):  # type: ignore[no-untyped-def]
            branch.ready_at = time.monotonic() + delay_s
            for event in slot_events:
                self._emit(branch, event)
            self._emit(branch, wire.Done(gen.branch, gen.slot, "stop", "café", wire.Usage()))

    @bw.function
    def body(s: bw.State) -> None:
        s += bw.gen("a")

    backend = Cutting()
    state = body.run(stream=True, backend=backend)
    assert list(backend.one_by_one(state.text_iter())) == ["caf", "é"]
