"""Branches: what they share, and how they come together."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import branchwork as bw
from branchwork.lang.cursor import Cursor
from branchwork.lang.slot import Slot
from branchwork.lang.testing.scripted import Answer, Asked, Scripted
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import InvalidParameter, ProgramError, RoleError

MakeScript = Callable[..., Scripted]


def run(body: Callable[..., object], **options: Any) -> bw.State:
    return bw.function(body).run(**options)


def test_forks_hold_what_was_said_and_go_their_own_way(script: MakeScript) -> None:
    script(tip=lambda asked: asked.prompt[-1])

    def body(s: bw.State) -> None:
        s += "Tips: " + bw.gen("head")
        forks = s.fork(3)
        for i, fork in enumerate(forks):
            fork += f" tip {i}" + bw.gen("tip")
        assert [fork["tip"] for fork in forks] == ["0", "1", "2"]
        assert forks[1].text() == "Tips: ok tip 11"
        assert forks[1]["head"] == "ok"
        assert s.text() == "Tips: ok"

    run(body)


def test_a_fork_of_a_fork_holds_all(script: MakeScript) -> None:
    script()

    def body(s: bw.State) -> None:
        s += "a"
        with s.copy() as b:
            b += "b"
            with b.copy() as c:
                c += "c" + bw.gen("x")
                assert c.text() == "abcok"
            s += "!"

    assert run(body).text() == "a!"


@pytest.mark.parametrize("kind", ["one", "list", "lambda"])
def test_a_group_appends_one_expression_a_list_or_a_function(script: MakeScript, kind: str) -> None:
    script()

    def body(s: bw.State) -> list[str]:
        forks = s.fork(2)
        if kind == "one":
            forks += "x" + bw.gen("a")
        elif kind == "list":
            forks += ["x", "y" + bw.gen("a")]
        else:
            forks += lambda i: "xy"[i] + bw.gen("a")
        return [fork.text() for fork in forks]

    assert (
        run(body).ret_value
        == {"one": ["xok", "xok"], "list": ["x", "yok"], "lambda": ["xok", "yok"]}[kind]
    )


def test_a_list_of_another_length_is_refused(script: MakeScript) -> None:
    script()

    def body(s: bw.State) -> None:
        forks = s.fork(2)
        forks += ["only one"]

    with pytest.raises(ProgramError, match="1 expressions for 2 forks"):
        run(body)


def test_join_gathers_what_is_new_in_the_forks(script: MakeScript) -> None:
    script(tip=["a", "b", "c"])

    def body(s: bw.State) -> None:
        s += bw.gen("head")
        forks = s.fork(3)
        forks += bw.gen("tip")
        forks.join()
        s += "Tips: " + ", ".join(s["tip"])

    state = run(body)
    assert state["tip"] == ["a", "b", "c"]
    assert state["head"] == "ok"


def test_join_waits_for_nothing(script: MakeScript) -> None:
    backend = script(tip=Answer("slow", delay_s=0.2))

    def body(s: bw.State) -> None:
        forks = s.fork(2)
        forks += bw.gen("tip")
        forks.join("concate_and_append")
        s += "End" + bw.gen("end")
        assert not any(
            isinstance(each, wire.Gen) and each.slot == "end" for each in backend.instructions
        )

    assert run(body).text() == "slowslowEndok"


def test_concatenation_appends_what_the_forks_have_said(script: MakeScript) -> None:
    def answer(asked: Asked) -> str:
        return str(asked.prompt.count("Statement"))

    backend = script(answer=answer)

    def body(s: bw.State) -> None:
        s += "Remember. "
        forks = s.fork(3)
        forks += lambda i: f"Statement {i}: " + "abc"[i] + bw.gen("note") + "\n"
        forks.join("concate_and_append")
        s += "Question?" + bw.gen("answer")

    state = run(body)
    assert (
        state.text() == "Remember. Statement 0: aok\nStatement 1: bok\nStatement 2: cok\nQuestion?3"
    )
    ids = [each for each in backend.instructions if isinstance(each, wire.Text) and each.token_ids]
    assert (
        len(ids) == 3
    )  # the answers travel as the tokens that they are, not as text to be tokenised again


def test_a_fork_that_fails_fails_the_join(script: MakeScript) -> None:
    script(tip=InvalidParameter("not today"))

    def body(s: bw.State) -> None:
        forks = s.fork(2)
        forks += bw.gen("tip")
        forks.join("concate_and_append")
        s += bw.gen("end")
        s["end"]

    with pytest.raises(InvalidParameter, match="not today"):
        run(body)


def test_every_branch_is_closed_at_the_end(script: MakeScript) -> None:
    backend = script()

    def body(s: bw.State) -> None:
        s += bw.gen("a")
        forks = s.fork(4)
        forks += bw.gen("b", n=2)
        forks[0].fork(2)

    run(body)
    assert backend.num_open == 0


def test_async_forks_join_too(script: MakeScript) -> None:
    script(tip=["a", "b"], delay_s=0.02)

    @bw.function
    async def body(s: bw.AsyncState) -> list[str]:
        forks = s.fork(2)
        forks += bw.gen("tip")
        values = await asyncio.gather(*(fork.get("tip") for fork in forks))
        forks.join()
        assert await s["tip"] == list(values)
        return list(values)

    assert body.run().ret_value == ["a", "b"]


@pytest.mark.parametrize("size", [0, -1])
def test_a_fork_has_at_least_one_branch(script: MakeScript, size: int) -> None:
    script()
    with pytest.raises(ProgramError, match="a fork has at least one branch"):
        run(lambda s: s.fork(size))


# ---------------------------------------------------------------------- several backends


def test_a_slot_may_be_filled_by_another_backend(script: MakeScript) -> None:
    main = script(a="first", c="third")
    other = Scripted({"b": lambda asked: f"[{asked.prompt}]"}, delay_s=0.02)

    def body(s: bw.State) -> None:
        s += bw.user("Q") + bw.gen("a") + " "
        s += bw.gen("b", on=other) + " "
        s += bw.gen("c")

    state = run(body)
    start = "<|im_start|>user\nQ<|im_end|>\nfirst "
    assert state["b"] == f"[{start}]"
    assert state.text() == f"{start}[{start}] third"
    assert "".join(each.text for each in main.instructions if isinstance(each, wire.Text)) == (
        f"<|im_start|>user\nQ<|im_end|>\n [{start}] "
    )
    assert [type(each) for each in other.instructions][-1] is wire.Close


def test_another_backend_that_lacks_a_role_of_the_branch_is_an_error(script: MakeScript) -> None:
    """It was a KeyError, and where the slot stood behind another one it was never filled, nor was it said why."""
    script(a="first")
    other = Scripted({"b": "second"}, chat_format=wire.ChatFormat({}, {}))

    def body(s: bw.State) -> None:
        s += bw.gen("a")
        s += bw.user("Q")
        s += bw.gen("b", on=other)

    with pytest.raises(RoleError, match="scripted has no role 'user'; it knows no roles"):
        run(body)


def test_a_bug_met_while_an_answer_is_passed_on_fails_the_slot_behind_it(
    script: MakeScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(a="first")
    other = Scripted({"b": "second"})

    def broken(cursor: Cursor, slot: Slot) -> tuple[int, ...]:
        raise ZeroDivisionError

    monkeypatch.setattr(Cursor, "_kept_tokens", broken)

    def body(s: bw.State) -> None:
        s += bw.gen("a") + bw.gen("b", on=other)

    with pytest.raises(ProgramError, match="what follows a slot failed: ZeroDivisionError"):
        run(body)


def test_several_backends_work_in_every_mode(script: MakeScript) -> None:
    script(a="x")
    other = Scripted({"b": "y"}, delay_s=0.01)

    @bw.function
    def body(s: bw.State) -> str:
        s += bw.gen("a") + bw.gen("b", on=other)
        return str(s["b"])

    assert body.run().text() == "xy"
    assert [state.ret_value for state in body.run_batch([{}] * 5)] == ["y"] * 5
    assert asyncio.run(body.arun()).ret_value == "y"
    assert "".join(body.run(stream=True).text_iter()) == "xy"


def test_the_callers_own_method_decides(script: MakeScript) -> None:
    backend = script()
    seen = {}

    def longest(**scores: object) -> str:
        seen.update(scores)
        return max(scores["choices"], key=len)  # type: ignore[call-overload, no-any-return]

    def body(s: bw.State) -> None:
        s += "?" + bw.select("a", ["yes", "perhaps"], choices_method=longest) + "!" + bw.gen("b")

    state = run(body)
    assert state["a"] == "perhaps"
    assert state.text() == "?perhaps!ok"
    assert seen["choices"] == ["yes", "perhaps"]
    texts = [each.text for each in backend.instructions if isinstance(each, wire.Text)]
    assert texts == ["?", "perhaps!"]


def test_a_method_that_fails_is_the_programs_error(script: MakeScript) -> None:
    script()

    def body(s: bw.State) -> None:
        s += bw.select("a", ["x"], choices_method=lambda **_: "none of them")

    with pytest.raises(ProgramError, match="which is none of the choices"):
        run(body)
