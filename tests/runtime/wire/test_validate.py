"""The one validator: both bounds of every number, the type and size of every field."""

import contextlib
import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwork.runtime.wire.errors import ConstraintError, InvalidParameter, RequestError
from branchwork.runtime.wire.messages import (
    Abort,
    AnyOf,
    Chat,
    ChatMessage,
    Choices,
    Close,
    Concat,
    Constraint,
    Ebnf,
    Embed,
    FreeText,
    Gen,
    Instruction,
    JsonSchema,
    JsonValue,
    Open,
    Regex,
    Sampling,
    Select,
    StructuralTags,
    Tag,
    Text,
)
from branchwork.runtime.wire.validate import Limits, check

LIMITS = Limits(
    vocab_size=100,
    context_len=64,
    max_text_bytes=1000,
    max_choices=4,
    max_stops=2,
    max_stop_bytes=8,
    max_logprobs=5,
    max_logit_bias=2,
    max_schema_bytes=200,
    adapters=("poet", "sql"),
)


def gen(**sampling: object) -> Gen:
    return Gen(1, "x", Sampling(**sampling))  # type: ignore[arg-type]


GOOD: list[Instruction] = [
    Open(1),
    Open(2, parent=1, salt="s", priority=-1000, program=7, keep=False, pin_s=60.0),
    Open(3, adapter="sql"),
    Text(1, "hello"),
    Text(1, token_ids=(0, 99)),
    Chat(1, (ChatMessage("user", "hi", '{"name": "Ada"}'),), tools="[]", options="{}"),
    Gen(1, "x"),
    gen(max_tokens=0, temperature=0.0, top_p=0.0, seed=-(2**63)),
    gen(max_tokens=8, min_tokens=8, temperature=2, top_k=1, min_p=1.0, seed=2**63 - 1),
    gen(
        stop=("\n", "é" * 4), stop_regex=("a+",), stop_token_ids=(0, 99), logit_bias=((5, -100.0),)
    ),
    Gen(1, "x", logprobs=0, prompt_logprobs_from=64, deadline_s=0.5),
    Select(1, "x", ("a", "b")),
    Embed(1, "x"),
    Close(1),
    Abort(1),
]


@pytest.mark.parametrize("instruction", GOOD, ids=lambda value: type(value).__name__)
def test_what_can_be_served_is_taken(instruction: Instruction) -> None:
    check(instruction, LIMITS)


BAD: list[tuple[str, Instruction]] = [
    ("branch", Open(-1)),
    ("branch", Open(2**63)),
    ("branch", Close(True)),
    ("parent", Open(1, parent=-1)),
    ("salt", Open(1, salt="x" * 1025)),
    ("salt", Open(1, salt="\ud800")),
    ("priority", Open(1, priority=1001)),
    ("priority", Open(1, priority=-1001)),
    ("program", Open(1, program=-1)),
    ("keep", Open(1, keep=1)),  # type: ignore[arg-type]
    ("pin_s", Open(1, pin_s=-1.0)),
    ("pin_s", Open(1, pin_s=86_401.0)),
    ("pin_s", Open(1, pin_s=float("nan"))),
    ("adapter", Open(1, adapter="poets")),
    ("adapter", Open(1, adapter="x" * 1025)),
    ("adapter", Open(1, adapter="\ud800")),
    ("adapter", Open(1, adapter=1)),  # type: ignore[arg-type]
    ("adapter", Open(2, parent=1, adapter="sql")),
    ("text", Text(1, "x" * 1001)),
    ("text", Text(1, b"x")),  # type: ignore[arg-type]
    ("text", Text(1, "a\udfff")),
    ("token_ids", Text(1, token_ids=(100,))),
    ("token_ids", Text(1, token_ids=(-1,))),
    ("token_ids", Text(1, token_ids=(1.0,))),  # type: ignore[arg-type]
    ("token_ids", Text(1, token_ids=(True,))),
    ("messages", Chat(1, ())),
    ("messages", Chat(1, (ChatMessage("", "hi"),))),
    ("messages", Chat(1, (ChatMessage("user", "x" * 1001),))),
    ("messages", Chat(1, (ChatMessage("user", "hi", "[]"),))),
    ("messages", Chat(1, (ChatMessage("user", "hi", "{"),))),
    ("tools", Chat(1, (ChatMessage("user", "hi"),), tools="{}")),
    ("tools", Chat(1, (ChatMessage("user", "hi"),), tools="[" * 400)),
    ("options", Chat(1, (ChatMessage("user", "hi"),), options="[]")),
    ("slot", Gen(1, "")),
    ("slot", Gen(1, "x" * 1025)),
    ("max_tokens", gen(max_tokens=-1)),
    ("max_tokens", gen(max_tokens=2**31)),
    ("max_tokens", gen(max_tokens=1.5)),
    ("min_tokens", gen(min_tokens=-1)),
    ("min_tokens", gen(min_tokens=9, max_tokens=8)),
    ("temperature", gen(temperature=-0.1)),
    ("temperature", gen(temperature=2.1)),
    ("temperature", gen(temperature=math.nan)),
    ("temperature", gen(temperature=math.inf)),
    ("temperature", gen(temperature=True)),
    ("temperature", gen(temperature="0")),
    ("top_p", gen(top_p=1.1)),
    ("top_p", gen(top_p=-0.1)),
    ("top_k", gen(top_k=-1)),
    ("top_k", gen(top_k=10**30)),
    ("min_p", gen(min_p=1.1)),
    ("frequency_penalty", gen(frequency_penalty=2.1)),
    ("presence_penalty", gen(presence_penalty=-2.1)),
    ("repetition_penalty", gen(repetition_penalty=0.0)),
    ("repetition_penalty", gen(repetition_penalty=2.1)),
    ("seed", gen(seed=2**63)),
    ("seed", gen(seed=-(2**63) - 1)),
    ("stop", gen(stop=("a", "b", "c"))),
    ("stop", gen(stop=("",))),
    ("stop", gen(stop=("é" * 5,))),
    ("stop", gen(stop="ab")),
    ("stop_regex", gen(stop_regex=("x" * 9,))),
    ("stop_token_ids", gen(stop_token_ids=(100,))),
    ("logit_bias", gen(logit_bias=((100, 1.0),))),
    ("logit_bias", gen(logit_bias=((-1, 1.0),))),
    ("logit_bias", gen(logit_bias=((1, 101.0),))),
    ("logit_bias", gen(logit_bias=((1, 1.0), (2, 1.0), (3, 1.0)))),
    ("include_stop", gen(include_stop=None)),
    ("ignore_eos", gen(ignore_eos=1)),
    ("logprobs", Gen(1, "x", logprobs=6)),
    ("logprobs", Gen(1, "x", logprobs=-1)),
    ("prompt_logprobs_from", Gen(1, "x", prompt_logprobs_from=-1)),
    ("prompt_logprobs_from", Gen(1, "x", prompt_logprobs_from=65)),
    ("heal", Gen(1, "x", heal=1)),  # type: ignore[arg-type]
    ("deadline_s", Gen(1, "x", deadline_s=-1.0)),
    ("deadline_s", Gen(1, "x", deadline_s=math.inf)),
    ("choices", Select(1, "x", ())),
    ("choices", Select(1, "x", ("",))),
    ("choices", Select(1, "x", ("a", "b", "c", "d", "e"))),
    ("choices", Select(1, "x", ("a" * 600, "b" * 600))),
    ("deadline_s", Select(1, "x", ("a",), deadline_s=math.nan)),
    ("slot", Embed(1, "")),
    ("constraint", Gen(1, "x", constraint=Regex("x" * 201))),
    ("constraint", Gen(1, "x", constraint=Choices(()))),
    ("constraint", Gen(1, "x", constraint="x")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    ("param", "instruction"), BAD, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_be_served_is_refused_and_the_parameter_named(
    param: str, instruction: Instruction
) -> None:
    with pytest.raises(RequestError) as refusal:
        check(instruction, LIMITS)
    assert refusal.value.param == param
    assert "\n" not in str(refusal.value)


def test_the_refusal_says_the_value_and_the_bounds() -> None:
    with pytest.raises(InvalidParameter, match=r"^temperature 3\.0 is not between 0 and 2$"):
        check(gen(temperature=3.0), LIMITS)


CONSTRAINTS: list[Constraint] = [
    Regex("a+"),
    Choices(("yes", "no")),
    JsonSchema("{}"),
    JsonValue(),
    Ebnf('root ::= "a"'),
    FreeText(("\n",)),
    AnyOf((Regex("a"), JsonValue())),
    Concat(("think: ", FreeText(("</think>",)), JsonValue())),
    StructuralTags((Tag("<a>", JsonValue(), "</a>"),), ("<a",)),
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda value: type(value).__name__)
def test_every_kind_of_constraint_is_measured_at_any_depth(constraint: Constraint) -> None:
    check(Gen(1, "x", constraint=constraint), LIMITS)
    long = Regex("x" * 201)
    for around in (Concat((constraint, long)), StructuralTags((Tag("a", long, "b"),), ("a",))):
        with pytest.raises(ConstraintError, match="--max-schema-bytes"):
            check(Gen(1, "x", constraint=around), LIMITS)


def test_constraints_inside_each_other_are_bounded() -> None:
    nested: Constraint = Regex("a")
    for _ in range(100):
        nested = Concat((nested,))
    with pytest.raises(ConstraintError, match="inside each other"):
        check(Gen(1, "x", constraint=nested), LIMITS)
    with pytest.raises(ConstraintError, match="too many parts"):
        check(Gen(1, "x", constraint=Concat(("",) * 5000)), LIMITS)


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.binary(),
    st.lists(st.integers()),
    st.tuples(st.text(), st.integers()),
)


@given(st.sampled_from(Sampling.__struct_fields__), anything)
def test_any_value_of_a_sampling_field_is_taken_or_refused(name: str, value: object) -> None:
    with contextlib.suppress(InvalidParameter):
        check(gen(**{name: value}), LIMITS)


def test_what_passes_can_be_sent() -> None:
    for instruction in GOOD:
        msgspec.msgpack.decode(msgspec.msgpack.encode(instruction), type=Instruction)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ((), "there is no adapter 'poets'; there is none"),
        (("sql",), "there is no adapter 'poets'; there is sql"),
        (("sql", "poet"), "there is no adapter 'poets'; there are sql, poet"),
    ],
)
def test_an_adapter_that_is_not_there_is_answered_with_those_that_are(
    known: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check(Open(1, adapter="poets"), replace(LIMITS, adapters=known))
    assert str(caught.value) == said
