"""Programs that are looked at, compiled and warmed without being run."""

from collections.abc import Callable

import pytest

import branchwork as bw
from branchwork.lang.testing.scripted import Asked, Scripted
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import ProgramError

MakeScript = Callable[..., Scripted]


@bw.function
def few_shot(s: bw.State, question: str, tone: str = "kind") -> None:
    s += bw.system("You answer in one word.")
    s += bw.user(f"Q: {question} in a {tone} tone")
    s += bw.assistant(bw.gen("answer", stop="\n"))


def test_the_graph_of_a_program_shows_its_texts_arguments_and_slots() -> None:
    assert str(few_shot.graph()).splitlines()[:7] == [
        "few_shot(question, tone)",
        "├─ system begins",
        "├─ 'You answer in one word.'",
        "├─ system ends",
        "├─ user begins",
        "├─ 'Q: '",
        "├─ {question}",
    ]
    assert "├─ gen(\"answer\", stop=('\\n',))" in str(few_shot.graph())


def test_a_graph_ends_where_the_body_looks_at_what_nobody_knows_yet() -> None:
    @bw.function
    def react(s: bw.State, question: str) -> None:
        s += question + bw.select("act", ["Search", "Finish"])
        if s["act"] == "Search":
            s += bw.gen("more")

    graph = react.graph()
    assert graph.ended == "the body looks at the slot 'act'"
    assert [slot.wire_name for slot in graph.slots] == ["act"]
    with pytest.raises(
        ProgramError, match="react cannot be compiled: the body looks at the slot 'act'"
    ):
        react.compile()


def test_a_compiled_program_says_the_same_and_never_runs_its_body(script: MakeScript) -> None:
    backend = script(answer="Paris")
    runs = []

    @bw.function
    def ask(s: bw.State, question: str, hint: str = "none") -> None:
        runs.append(question)
        s += "Q: " + question + " hint: " + hint + "\nA:" + bw.gen("answer")

    plain = ask.run(question="Capital?").text()
    sent = [type(each) for each in backend.instructions]
    compiled = ask.compile()
    runs.clear()
    del backend.frames[:]
    assert compiled.run(question="Capital?").text() == plain
    assert [type(each) for each in backend.instructions] == sent
    states = compiled.run_batch([{"question": "a"}, ("b", "c")])
    assert [state.text() for state in states] == [
        "Q: a hint: none\nA:Paris",
        "Q: b hint: c\nA:Paris",
    ]
    assert runs == []


def test_a_compiled_program_passes_answers_on_without_waiting(script: MakeScript) -> None:
    backend = script(expert=" Ada", answer=lambda asked: asked.prompt.upper(), delay_s=0.01)

    @bw.function
    def ask(s: bw.State, question: str) -> None:
        s += question + bw.gen("expert")
        s += f" For example,{s['expert']} says" + bw.gen("answer")

    state = ask.compile().run(question="Who?")
    assert state["answer"] == "WHO? ADA FOR EXAMPLE, ADA SAYS"
    assert backend.num_open == 0


def test_forks_joins_scopes_and_calls_compile_too(script: MakeScript) -> None:
    def tip(asked: Asked) -> str:
        return f"<{asked.prompt[-5:]}>"

    script(tip=tip, head="Tips", detail="long")

    @bw.function
    def expand(s: bw.State, text: str) -> None:
        s += "Expand " + text + ":" + bw.gen("detail")

    @bw.function
    def tips(s: bw.State, topic: str) -> None:
        with s.var_scope("all"):
            s += topic + ": " + bw.gen("head")
        forks = s.fork(2)
        forks += lambda i: f" tip {i}" + bw.gen("tip")
        forks.join("concate_and_append")
        longer = expand(text=s["head"])
        s += " Then " + longer["detail"]

    plain = tips.run(topic="health")
    compiled = tips.compile().run(topic="health")
    assert compiled.text() == plain.text() == "health: Tips tip 0<tip 0> tip 1<tip 1> Then long"
    assert compiled["all"] == "health: Tips"


def test_an_argument_that_is_no_text_is_refused_by_a_compiled_program(script: MakeScript) -> None:
    script()
    compiled = few_shot.compile()
    with pytest.raises(ProgramError, match="the argument 'question' must be text, not int"):
        compiled.run(question=3)
    with pytest.raises(ProgramError, match="the argument 'question' is missing"):
        compiled.run()


def test_trace_refuses_an_argument_in_an_f_string_as_the_reference_does() -> None:
    with pytest.raises(TypeError, match="f-string"):
        few_shot.trace()


def test_the_constant_prefix_can_be_warmed(script: MakeScript) -> None:
    backend = script()
    few_shot.cache()
    (gen,) = [each for each in backend.instructions if isinstance(each, wire.Gen)]
    texts = [each.text for each in backend.instructions if isinstance(each, wire.Text)]
    assert gen.sampling.max_tokens == 0
    assert "".join(texts).endswith("one word.<|im_end|>\n<|im_start|>user\nQ: ")
