"""A program names the adapter that it is computed with; its branches keep it for life."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import branchwork as bw
from branchwork.lang.adapter import Adapted
from branchwork.runtime.wire.errors import InvalidParameter, ProgramError, UnknownOption
from branchwork.runtime.wire.messages import Open, Text
from branchwork.testing import Asked, Recorder, Replayed, Scripted, mock_runtime


def adapted(**answers: Any) -> Scripted:
    """A backend that says with which adapter it was asked."""
    return Scripted(answers, default=lambda asked: f"<{asked.adapter}>", adapters=("poet", "sql"))


@bw.function
def plain(s: bw.State, question: str) -> None:
    s += question + bw.gen("answer")


@bw.function(adapter="poet")
def verse(s: bw.State, question: str) -> None:
    s += question + bw.gen("answer")


def opened(backend: Scripted) -> list[tuple[bool, str]]:
    """Of each branch, whether it is a fork, and the adapter that it names."""
    return [
        (each.parent is not None, each.adapter)
        for each in backend.instructions
        if isinstance(each, Open)
    ]


def test_the_runs_adapter_goes_before_the_functions_and_that_before_the_backends() -> None:
    backend = adapted()
    sql = bw.with_adapter("sql", backend)

    def answer(function: bw.Function, **options: Any) -> Any:
        return function.run(question="?", **options)["answer"]

    assert answer(plain, backend=backend) == "<>"
    assert answer(plain, backend=backend, adapter="poet") == "<poet>"
    assert answer(plain, backend=sql) == "<sql>"
    assert answer(plain, backend=sql, adapter="poet") == "<poet>"
    assert answer(verse, backend=backend) == "<poet>"
    assert answer(verse, backend=sql) == "<poet>"
    assert answer(verse, backend=backend, adapter="sql") == "<sql>"
    assert answer(verse, backend=sql, adapter="") == "<>"


def test_forks_and_samples_name_no_adapter_and_have_their_parents() -> None:
    backend = adapted()

    @bw.function
    def many(s: bw.State) -> None:
        s += "A list:" + bw.gen("first", n=2)
        forks = s.fork(2)
        for fork in forks:
            fork += " more" + bw.gen("more")
        forks.join()

    state = many.run(backend=backend, adapter="sql")
    assert state["more"] == ["<sql>", "<sql>"]
    assert sorted(opened(backend)) == [(False, "sql"), (True, ""), (True, ""), (True, "")]


def test_an_async_program_a_batch_and_a_stream_have_it_too() -> None:
    backend = adapted()
    state = asyncio.run(plain.arun(question="?", backend=backend, adapter="sql"))
    states = plain.run_batch(["a", "b"], backend=backend, adapter="poet")
    more = asyncio.run(plain.arun_batch(["a"], backend=backend, adapter="poet"))
    stream = plain.run(question="?", backend=backend, adapter="sql", stream=True)
    assert "".join(stream.text_iter("answer")) == "<sql>"
    assert [each["answer"] for each in (state, *states, *more)] == [
        "<sql>", "<poet>", "<poet>", "<poet>"
    ]  # fmt: skip


def test_the_default_backend_may_be_one_with_an_adapter() -> None:
    bw.set_default_backend(bw.with_adapter("sql", adapted()))
    try:
        assert plain.run(question="?")["answer"] == "<sql>"
        assert bw.with_adapter("poet") == bw.with_adapter("poet")
    finally:
        bw.set_default_backend(None)


def test_another_adapter_may_be_asked_for_one_slot_on_a_branch_of_its_own() -> None:
    backend = adapted()

    @bw.function
    def judged(s: bw.State) -> None:
        s += "Say it." + bw.gen("said")
        s += " Good?" + bw.gen("verdict", on=bw.with_adapter("sql", backend))
        s += " So" + bw.gen("last") + bw.gen("again", on=bw.with_adapter("sql", backend))

    state = judged.run(backend=backend, adapter="poet")
    assert state.text() == "Say it.<poet> Good?<sql> So<poet><sql>"
    assert opened(backend) == [(False, "poet"), (False, "sql")]


def test_what_one_adapter_said_goes_to_another_as_its_tokens() -> None:
    backend = adapted()

    @bw.function
    def judged(s: bw.State) -> None:
        s += bw.gen("said") + " Good?" + bw.gen("verdict", on=bw.with_adapter("sql", backend))

    judged.run(backend=backend, adapter="poet")
    sent = [each.token_ids for each in backend.instructions if isinstance(each, Text)]
    assert any(sent), "words were sent in place of tokens"


@pytest.mark.parametrize("name", ["poets", "x" * 5000])
def test_an_adapter_that_the_backend_has_not_is_refused_where_the_program_is_run(name: str) -> None:
    backend = adapted()
    with pytest.raises(InvalidParameter, match="there are poet, sql") as caught:
        plain.run(question="?", backend=backend, adapter=name)
    assert caught.value.param == "adapter"
    assert len(str(caught.value)) < 300
    with pytest.raises(InvalidParameter, match="there is no adapter 'poet'; there is none"):
        verse.run(question="?", backend=Scripted())
    assert backend.frames == []


def test_an_api_has_no_adapters() -> None:
    api = bw.OpenAI("gpt-4o", api_key="key", base_url="http://127.0.0.1:9")
    with pytest.raises(InvalidParameter, match="there is no adapter 'poet'; there is none"):
        plain.run(question="?", backend=api, adapter="poet")


def test_an_adapter_is_no_option_of_a_slot() -> None:
    with pytest.raises(UnknownOption, match="a branch has one for life"):
        bw.gen("x", adapter="poet")  # type: ignore[call-arg]


def test_a_function_of_an_adapter_is_not_run_inside_a_branch_of_another() -> None:
    backend = adapted()

    @bw.function
    def outer(s: bw.State) -> None:
        s += "First. "
        verse(s, "?")

    assert outer.run(backend=backend, adapter="poet")["answer"] == "<poet>"
    with pytest.raises(
        ProgramError, match=r"verse is computed with the adapter 'poet', and this b"
    ):
        outer.run(backend=backend)


def test_a_program_that_is_called_has_its_own_adapter() -> None:
    backend = adapted()

    @bw.function
    def outer(s: bw.State) -> None:
        s += "First. " + verse.run(question="?", backend=backend)["answer"] + bw.gen("last")

    assert outer.run(backend=backend, adapter="sql").text() == "First. <poet><sql>"


def test_a_trace_shows_adapters_and_a_compiled_program_keeps_them() -> None:
    backend = adapted()

    @bw.function(adapter="sql")
    def outer(s: bw.State) -> None:
        s += "First. " + verse.run(question="?")["answer"] + bw.gen("last")

    lines = str(outer.graph()).splitlines()
    assert lines[0] == "outer() with adapter 'sql'"
    assert "calls with adapter 'poet'" in lines
    state = outer.compile().run(backend=backend)
    assert state.text() == "First. <poet><sql>"
    assert sorted(opened(backend)) == [(False, "poet"), (False, "sql")]
    assert verse.compile().run(question="?", backend=backend)["answer"] == "<poet>"
    assert verse.bind(question="?").run(backend=backend)["answer"] == "<poet>"


def test_what_every_run_begins_with_is_computed_with_the_functions_adapter() -> None:
    backend = adapted()

    @bw.function(adapter="sql")
    def begun(s: bw.State, question: str) -> None:
        s += "Always the same. " + question + bw.gen("answer")

    begun.cache(backend)
    assert opened(backend) == [(False, "sql")]


def test_a_recording_tells_adapters_apart(tmp_path: Path) -> None:
    recorder = Recorder(adapted(), tmp_path / "file")
    for adapter in (None, "poet", "sql"):
        plain.run(question="?", backend=recorder, adapter=adapter)
    recorder.close()
    replayed = Replayed(tmp_path / "file")
    for adapter, said in (("sql", "<sql>"), ("poet", "<poet>"), ("", "<>")):
        assert plain.run(question="?", backend=replayed, adapter=adapter)["answer"] == said


def test_two_of_one_backend_and_adapter_are_one() -> None:
    backend, other = adapted(), adapted()
    assert Adapted(backend, "sql") == bw.with_adapter("sql", bw.with_adapter("poet", backend))
    assert bw.with_adapter("sql", backend) != bw.with_adapter("sql", other)
    assert bw.with_adapter("", bw.with_adapter("sql", backend)) is backend


def test_a_script_is_told_the_adapter() -> None:
    asked: list[Asked] = []

    def answer(one: Asked) -> str:
        asked.append(one)
        return "yes"

    plain.run(question="?", backend=Scripted({"answer": answer}, adapters=["sql"]), adapter="sql")
    assert [one.adapter for one in asked] == ["sql"]


def test_over_a_runtime_each_adapter_writes_what_it_would_and_shares_only_with_itself() -> None:
    with mock_runtime(adapters={"poet": "x", "sql": "y"}) as backend:
        assert backend.welcome.adapters == ("poet", "sql")

        def run(adapter: str) -> tuple[str, int]:
            state = plain.run(
                question="once upon a time in the town of Paris, which is not London ",
                backend=backend,
                adapter=adapter,
                max_tokens=8,
                temperature=0,
                ignore_eos=True,
            )
            return state["answer"], state.get_meta_info("answer")["cached_tokens"]

        first = {adapter: run(adapter) for adapter in ("", "poet", "sql")}
        assert len({text for text, _ in first.values()}) == 3
        assert {cached for _, cached in first.values()} == {0}
        for adapter in ("sql", "", "poet"):
            text, cached = run(adapter)
            assert text == first[adapter][0]
            assert cached > 20


def test_sglangs_names_for_adapters_are_known() -> None:
    assert bw.lang.default._translated({"lora_paths": ["a=b"]}) == {"adapters": ["a=b"]}  # type: ignore[attr-defined]
