"""The types that a program's author sees, held by the type checker and by running."""

import asyncio
from enum import Enum
from typing import Any, assert_type

import branchwork as bw
from branchwork.lang.group import Group
from branchwork.lang.ir import Gen, RoleMark, Select, Seq
from branchwork.testing import Scripted


class Colour(Enum):
    RED = "red"


def test_expressions_have_their_types() -> None:
    assert_type(bw.gen("x"), Gen | Select)
    assert_type(bw.select("x", ["a"]), Select)
    assert_type(bw.select("x", Colour), Select)
    assert_type("Q: " + bw.gen("x"), Seq)
    assert_type(bw.gen("x") + "!", Seq)
    assert_type(bw.user("hi"), Seq)
    assert_type(bw.user_begin(), RoleMark)


def test_states_have_their_types() -> None:
    @bw.function
    def program(s: bw.State) -> None:
        s["y"] = 1
        assert_type(s["y"], Any)
        s += bw.gen("x")
        forks = s.fork(2)
        assert_type(forks, Group[bw.State])
        assert_type(forks[0], bw.State)
        with s.copy() as fork:
            assert_type(fork, bw.State)

    assert_type(program, bw.Function)
    state = program.run(backend=Scripted())
    assert_type(state, bw.State)
    assert_type(state.text(), str)
    assert_type(state.messages(), list[dict[str, str]])
    assert_type(state.probs("x") if "z" in state else {}, dict[Any, float])
    assert_type(program.run_batch([{}], backend=Scripted()), list[bw.State])


def test_async_states_have_their_types() -> None:
    @bw.function
    async def program(s: bw.AsyncState) -> None:
        s += bw.gen("x")
        assert_type(await s["x"], Any)
        assert_type(await s.text(), str)
        assert_type(s.fork(2), Group[bw.AsyncState])

    program.run(backend=Scripted())


def test_an_async_stream_gives_text_and_pairs_only_where_they_are_asked_for() -> None:
    program = bw.function(lambda: "a" + bw.gen("x"))

    async def main() -> None:
        state = await program.arun(stream=True, backend=Scripted())
        async for piece in state.text_async_iter("x"):
            assert_type(piece, str)
        async for text, news in state.text_async_iter("x", return_meta_data=True):
            assert_type(text, str)
            assert_type(news, dict[str, Any])

    asyncio.run(main())
