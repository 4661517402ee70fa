"""What a body can do to its state, and what a finished state tells."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import branchwork as bw
from branchwork.lang.ir import Gen
from branchwork.lang.testing.scripted import Answer, Scripted
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import (
    BranchworkError,
    ConstraintError,
    InvalidParameter,
    ProgramError,
    RoleError,
    SlotError,
    UnknownOption,
)

MakeScript = Callable[..., Scripted]


def run(body: Callable[..., object], **options: Any) -> bw.State:
    return bw.function(body).run(**options)


def test_a_body_may_return_an_expression_instead_of_taking_a_state(script: MakeScript) -> None:
    script(a="Paris")

    @bw.function
    def ask(q: str) -> bw.Expr:
        return "Q: " + q + "\nA: " + bw.gen("a")

    assert ask.run(q="Capital?").text() == "Q: Capital?\nA: Paris"
    assert asyncio.run(ask.arun(q="Capital?"))["a"] == "Paris"
    assert [state["a"] for state in ask.run_batch([{"q": "1"}, ("2",)])] == ["Paris"] * 2


def test_the_state_may_have_another_name_when_it_is_annotated(script: MakeScript) -> None:
    script()

    @bw.function
    def ask(state: bw.State, q: str) -> str:
        state += q + bw.gen("a")
        return "done"

    assert ask.run(q="?").ret_value == "done"
    assert ask("?")["a"] == "ok"


def test_straight_code_is_sent_without_waiting(script: MakeScript) -> None:
    backend = script(delay_s=0.05)

    def body(s: bw.State) -> None:
        s += "Name: " + bw.gen("name") + "\nAge: " + bw.gen("age", dtype=int)
        kinds = [type(each).__name__ for each in backend.instructions]
        assert kinds == ["Open", "Text", "Gen", "Text", "Gen"]
        assert len(backend.frames) == 1

    run(body)


def test_text_after_the_last_slot_is_not_sent_but_said(script: MakeScript) -> None:
    backend = script()

    def body(s: bw.State) -> None:
        s += bw.gen("a")
        s += " and a long farewell"

    assert run(body).text() == "ok and a long farewell"
    assert [type(each).__name__ for each in backend.instructions] == ["Open", "Gen", "Close"]


def test_a_program_without_slots_sends_nothing(script: MakeScript) -> None:
    backend = script()
    assert run(lambda s: s.append("just text")).text() == "just text"
    assert backend.frames == []


def test_options_of_a_slot_go_before_those_of_the_run(script: MakeScript) -> None:
    backend = script()

    def body(s: bw.State) -> None:
        s += bw.gen("a", 16, stop=["x", "y"]) + bw.gen("b", temperature=0.5)

    run(body, temperature=0, max_new_tokens=64, stop="\n", top_k=-1)
    a, b = (each.sampling for each in backend.instructions if isinstance(each, wire.Gen))
    assert (a.max_tokens, a.temperature, a.stop, a.top_k) == (16, 0.0, ("x", "y"), 0)
    assert (b.max_tokens, b.temperature, b.stop, b.top_k) == (64, 0.5, ("\n",), 0)


def test_an_unknown_option_names_the_nearest(script: MakeScript) -> None:
    script()
    with pytest.raises(UnknownOption, match=r"max_token; did you mean max_tokens\?"):
        bw.gen("a", max_token=5)  # type: ignore[call-arg]
    with pytest.raises(UnknownOption, match=r"temprature; did you mean temperature\?"):
        run(lambda s: None, temprature=0)


def test_an_option_of_another_type_is_refused_where_it_is_written() -> None:
    with pytest.raises(InvalidParameter, match="temperature='hot': must be a number") as caught:
        bw.gen("a", temperature="hot")  # type: ignore[arg-type]
    assert caught.value.param == "temperature"


def test_two_slots_of_one_name_are_refused(script: MakeScript) -> None:
    script()

    def body(s: bw.State) -> None:
        s += bw.gen("a")
        s += bw.gen("a")

    with pytest.raises(SlotError, match="slot 'a' exists already"):
        run(body)


def test_a_fork_may_fill_a_slot_of_its_parents_name(script: MakeScript) -> None:
    script(a=["first", "second"])

    def body(s: bw.State) -> None:
        s += bw.gen("a")
        with s.copy() as fork:
            fork += bw.gen("a")
            assert fork["a"] == "second"
        assert s["a"] == "first"

    run(body)


def test_reading_an_unknown_slot_names_the_known_ones(script: MakeScript) -> None:
    script()

    def body(s: bw.State) -> None:
        s += bw.gen("answer") + bw.gen("reason")
        s["anser"]

    with pytest.raises(
        SlotError, match=r"no slot named 'anser'; did you mean 'answer'\? \(known: answer, reason\)"
    ):
        run(body)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "None cannot be appended"),
        (3, "a value of type int cannot be appended"),
        (["a"], "a value of type list cannot be appended"),
    ],
)
def test_only_text_and_expressions_can_be_appended(
    script: MakeScript, wrong: object, message: str
) -> None:
    script()
    with pytest.raises(ProgramError, match=message):
        run(lambda s: s.append(wrong))


def test_a_constraint_and_choices_exclude_one_another() -> None:
    with pytest.raises(ProgramError, match="choices and regex exclude one another"):
        bw.gen("a", choices=["x"], regex="x")
    with pytest.raises(ProgramError, match="dtype and json_schema exclude one another"):
        bw.gen("a", dtype=int, json_schema="{}")


def test_a_bad_pattern_tells_its_position() -> None:
    with pytest.raises(ConstraintError, match=r"unterminated subpattern at position 6") as caught:
        bw.gen("age", regex="[0-9]+(")
    assert caught.value.param == "6"


def test_a_property_of_unicode_is_for_the_runtime_to_read() -> None:
    written = bw.gen("name", regex=r"\p{Lu}\p{Ll}+")
    assert isinstance(written, Gen)
    assert written.hole.constraint == wire.Regex(r"\p{Lu}\p{Ll}+")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda: bw.gen(5), r"gen\(5\): a slot's name is text, not int"),
        (lambda: bw.select(5, ["a"]), r"select\(5\): a slot's name is text, not int"),
        (lambda: bw.gen("a", ebnf=5), "ebnf must be a string, not int"),
        (lambda: bw.gen("a", constraint=5), "constraint must be one of .*, not int"),
        (lambda: bw.gen("a", json_schema={}, order="x"), "order must be declared or any, not 'x'"),
        (
            lambda: bw.gen("a", json_schema={}, whitespace=5),
            "whitespace must be fixed or any, not 5",
        ),
        (lambda: bw.gen("a", json_schema={"const": {1}}), "json_schema is no JSON: .*set"),
        (lambda: bw.gen("a", on="gpt-4o"), "backend must be a Runtime, .*, not str"),
        (lambda: bw.gen("a", n=0), "n=0: must be at least 1"),
        (lambda: bw.gen("a", logit_bias={"x": 1}), "must be a mapping of token ids to numbers"),
        (lambda: bw.select("a", ["x", ""]), "choice 1 is the empty text"),
    ],
)
def test_what_could_not_be_read_by_the_runtime_is_refused_where_it_is_written(
    write: Callable[[], Any], message: str
) -> None:
    with pytest.raises(BranchworkError, match=message):
        write()


def test_a_body_that_yields_is_refused_and_not_passed_over() -> None:
    def body(s: bw.State) -> Any:
        s += "a" + bw.gen("a")
        yield s["a"]

    async def body_async(s: bw.AsyncState) -> Any:
        s += "a" + bw.gen("a")
        yield await s["a"]

    for each in (body, body_async):
        with pytest.raises(ProgramError, match="must not yield"):
            bw.function(each)


def test_choices_may_come_from_a_generator(script: MakeScript) -> None:
    script(a=2)
    written = bw.select("a", (str(number) for number in range(3)))  # type: ignore[arg-type]
    assert written.choices == ("0", "1", "2")


def test_an_error_of_the_runtime_names_the_slot_and_the_authors_line(script: MakeScript) -> None:
    script(age=ConstraintError("this pattern is not regular", "3"))

    def character(s: bw.State) -> None:
        s += "Age: " + bw.gen("age", regex=r"(?:a)+b", max_tokens=7)

    line = character.__code__.co_firstlineno + 1
    with pytest.raises(ConstraintError) as caught:
        run(character)
    assert str(caught.value) == (
        'gen("age", max_tokens=7, regex="(?:a)+b") - this pattern is not regular\n'
        f"  in test_state.py:{line}, in function character"
    )
    assert caught.value.param == "3"


def test_an_error_that_the_body_has_caught_is_not_raised_again(script: MakeScript) -> None:
    script(a=InvalidParameter("no"))

    def body(s: bw.State) -> str:
        s += bw.gen("a")
        try:
            return str(s["a"])
        except InvalidParameter:
            return "caught"

    assert run(body).ret_value == "caught"


def test_slots_after_a_failed_one_fail_with_its_error(script: MakeScript) -> None:
    script(a=InvalidParameter("the first cause"))

    def body(s: bw.State) -> None:
        s += bw.gen("a") + bw.gen("b")
        with pytest.raises(InvalidParameter, match="the first cause"):
            s["b"]

    run(body)


# ---------------------------------------------------------------------- roles


def test_roles_are_markup_and_words_are_not(script: MakeScript) -> None:
    backend = script(answer="Hi")

    def body(s: bw.State) -> None:
        s += bw.system("Be kind.")
        s.user("<|im_end|> hello")
        with s.assistant():
            s += bw.gen("answer")

    state = run(body)
    assert state.messages() == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "<|im_end|> hello"},
        {"role": "assistant", "content": "Hi"},
    ]
    texts = [each for each in backend.instructions if isinstance(each, wire.Text)]
    assert [each.text for each in texts if not each.special] == ["Be kind.", "<|im_end|> hello"]


def test_begin_and_end_marks_make_messages_too(script: MakeScript) -> None:
    script(a="42")

    def body(s: bw.State) -> None:
        s += bw.user_begin() + "6 * 7?" + bw.user_end()
        s += bw.assistant_begin() + bw.gen("a") + bw.assistant_end()

    assert [message["content"] for message in run(body).messages()] == ["6 * 7?", "42"]


def test_a_template_with_a_default_system_message_gets_it(script: MakeScript) -> None:
    backend = script()
    format_ = backend.welcome.chat_format
    prompted = Scripted(
        chat_format=wire.ChatFormat(
            format_.begin, format_.end, prefix="<s>", default_system="Be brief."
        )
    )

    def body(s: bw.State) -> None:
        s += bw.user("hi") + bw.assistant(bw.gen("a"))

    state = run(body, backend=prompted)
    assert [message["role"] for message in state.messages()] == ["system", "user", "assistant"]
    first = next(each for each in prompted.instructions if isinstance(each, wire.Text))
    assert first.text == "<s><|im_start|>system\n"


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        (bw.user(bw.system("x")), "system begins inside user"),
        (bw.user_end(), "user ends, but no role has begun"),
        (bw.user_begin() + bw.assistant_end(), "assistant ends inside user"),
        (
            bw.role("wizard", "x"),
            "scripted has no role 'wizard'; it knows system, user, assistant, tool",
        ),
    ],
)
def test_roles_that_do_not_nest_are_refused(
    script: MakeScript, expr: bw.Expr, message: str
) -> None:
    script()
    with pytest.raises(RoleError, match=message):
        run(lambda s: s.append(expr))


def test_a_role_that_was_left_open_ends_with_the_program(script: MakeScript) -> None:
    script()
    state = run(lambda s: s.append(bw.user_begin() + "hi"))
    assert state.messages() == [{"role": "user", "content": "hi"}]


# ---------------------------------------------------------------------- variables


def test_a_scope_is_the_text_said_inside_it(script: MakeScript) -> None:
    script(name='"Paris"', size="12")

    def body(s: bw.State) -> None:
        s += "Before. "
        with s.var_scope("json"):
            s += '{"name": ' + bw.gen("name") + ', "size": ' + bw.gen("size") + "}"
        s += " After."
        assert s["json"] == '{"name": "Paris", "size": 12}'

    assert run(body)["json"] == '{"name": "Paris", "size": 12}'


def test_a_variable_can_be_set_and_looked_for(script: MakeScript) -> None:
    script()

    def body(s: bw.State) -> None:
        s["x"] = 3
        s.set_var("y", [4])
        s += bw.gen("a")
        assert "x" in s
        assert "a" in s
        assert "z" not in s
        assert s.get_var("x") + s["y"][0] == 7

    run(body)


def test_several_samples_make_a_list_and_the_first_goes_on(script: MakeScript) -> None:
    backend = script(a=["one", "two", "three"])

    def body(s: bw.State) -> None:
        s += "Pick: " + bw.gen("a", n=3, seed=7)
        s += "!" + bw.gen("b")

    state = run(body)
    assert sorted(state["a"]) == ["one", "three", "two"]
    assert state.text() == f"Pick: {state['a'][0]}!ok"
    assert sorted(
        each.sampling.seed
        for each in backend.instructions
        if isinstance(each, wire.Gen) and each.slot == "a"
    ) == [7, 8, 9]  # type: ignore[type-var]
    assert backend.num_open == 0


def test_meta_info_has_the_keys_that_programs_read(script: MakeScript) -> None:
    script(a=Answer("New York", logprob=-0.25))

    def body(s: bw.State) -> None:
        s += "one two three " + bw.gen(
            "a", return_logprob=True, top_logprobs_num=1, return_text_in_logprobs=True
        )

    meta = run(body).get_meta_info("a")
    assert meta["prompt_tokens"] == 4
    assert meta["completion_tokens"] == 2
    assert meta["finish_reason"] == {"type": "stop", "matched": None}
    assert meta["output_token_logprobs"] == [(-0.25, 1, "New"), (-0.25, 2, " York")]
    assert meta["output_top_logprobs"] == [[(-0.25, 1, "New")], [(-0.25, 2, " York")]]


def test_a_finished_state_takes_nothing_more(script: MakeScript) -> None:
    script()
    state = run(lambda s: s.append("x"))
    with pytest.raises(ProgramError, match="this state has ended"):
        state += "more"


def test_an_image_is_refused_by_a_model_that_reads_text_only(script: MakeScript) -> None:
    script()
    with pytest.raises(ProgramError, match=r"an image cannot be shown to scripted.*\('cat.png'\)"):
        run(lambda s: s.append(bw.user(bw.image("cat.png") + "What is it?")))


def test_reasoning_is_taken_apart_and_the_branch_goes_on_without_it(script: MakeScript) -> None:
    backend = script(answer="<think>6*7</think>42")

    def body(s: bw.State) -> None:
        s += bw.user("6*7?")
        s += bw.assistant(bw.separate_reasoning(bw.gen("answer"), model_type="qwen3"))
        s += bw.user("Sure?") + bw.assistant(bw.gen("sure"))

    state = run(body)
    assert state["answer"] == "42"
    assert state["answer_reasoning_content"] == "6*7"
    assert state.messages()[1] == {"role": "assistant", "content": "42"}
    texts = "".join(each.text for each in backend.instructions if isinstance(each, wire.Text))
    assert "42<|im_end|>" in texts
    assert "think" not in texts


# ---------------------------------------------------------------------- calling one another


def test_a_function_called_with_a_state_goes_on_in_it(script: MakeScript) -> None:
    script()

    @bw.function
    def greet(s: bw.State, name: str) -> str:
        s += f"Hello {name}."
        return name.upper()

    @bw.function
    def question(q: str) -> bw.Expr:
        return "Q: " + q + bw.gen("a")

    def body(s: bw.State) -> None:
        assert greet(s, "Ada") == "ADA"
        question(s, q="why?")

    assert run(body).text() == "Hello Ada.Q: why?ok"


def test_a_program_may_run_another(script: MakeScript) -> None:
    script(delay_s=0.01)

    @bw.function
    def inner(s: bw.State) -> None:
        s += bw.gen("a")

    @bw.function
    def outer(s: bw.State) -> None:
        s += inner.run()["a"] + bw.gen("b")
        s += "".join(state["a"] for state in inner.run_batch([{}] * 3))

    assert outer.run().text() == "okokokokok"
    assert [state.text() for state in outer.run_batch([{}] * 3)] == ["okokokokok"] * 3
    assert asyncio.run(outer.arun()).text() == "okokokokok"


def test_bound_arguments_are_given_and_unknown_ones_refused(script: MakeScript) -> None:
    script()

    @bw.function
    def ask(s: bw.State, q: str, tone: str) -> None:
        s += q + tone

    assert ask.bind(tone="!").run(q="hi").text() == "hi!"
    with pytest.raises(UnknownOption, match="tune; did you mean tone"):
        ask.bind(tune="?")


def test_no_token_and_logprobs_tell_what_could_come_next(script: MakeScript) -> None:
    backend = script(a="Paris", b="on")

    def body(s: bw.State) -> None:
        s += "?" + bw.gen("a", max_tokens=0, return_logprob=True, top_logprobs_num=2)
        s += "!" + bw.gen("b")

    state = run(body)
    assert state["a"] == ""
    assert len(state.get_meta_info("a")["output_top_logprobs"][0]) == 2
    assert state.text() == "?!on"
    assert [
        each.sampling.max_tokens for each in backend.instructions if isinstance(each, wire.Gen)
    ] == [1, 128]
