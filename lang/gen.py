"""The slots of a program: what the model writes, and what it chooses."""

from collections.abc import Mapping, Sequence
from enum import Enum, EnumMeta
from typing import Any, Literal, Unpack

from branchwork.lang import holes
from branchwork.lang.choices import Method, named
from branchwork.lang.default import resolve
from branchwork.lang.ir import Expr, Gen, Hole, Media, Reasoning, Select, Seq, expression
from branchwork.lang.options import RunOptions, normalise
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import ProgramError
from branchwork.runtime.wire.messages import Constraint


class GenOptions(RunOptions, total=False):
    """What `gen` takes beside its form. `n` answers make the value a list; `timeout` (seconds) is the slot's own."""

    n: int
    timeout: float


_FORMS = ("type", "dtype", "choices", "regex", "json_schema", "ebnf", "constraint")
_FREE = Hole()


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    *,
    type: Any = None,
    dtype: Any = None,
    choices: "Sequence[str] | EnumMeta | None" = None,
    choices_method: Method = "token_length_normalized",
    regex: str | None = None,
    json_schema: str | Mapping[str, Any] | None = None,
    ebnf: str | None = None,
    constraint: Constraint | None = None,
    strict: bool = True,
    whitespace: Literal["fixed", "any"] = "fixed",
    order: Literal["declared", "any"] = "declared",
    on: Backend | None = None,
    **options: Unpack[GenOptions],
) -> Gen | Select:
    """A slot that the model fills; `s[name]` is its value.

    At most one form: `type` (any type; the value is an object of it), `dtype` (int, float, bool, str; the value is
    text), `regex`, `json_schema`, `ebnf`, `choices` (as `select`), or a `constraint` of the wire. `on` is another
    backend to ask. The options are in `RunOptions`.

    Of a `json_schema`: `strict=False` lets what cannot be enforced go, and says so; `whitespace="any"` leaves the
    blanks to the model, `order="any"` the order of the keys.

    Raises UnknownOption, InvalidParameter, ProgramError or ConstraintError where it is called.

    >>> @bw.function
    ... def ask():
    ...     return "Ada is" + bw.gen("age", type=int, max_tokens=8)
    >>> ask.run()["age"]
    36
    """
    check_name("gen", name)
    own = normalise(options, also_known=_FORMS) if options else {}
    if max_tokens is not None:
        own.update(normalise({"max_tokens": max_tokens}))
    values = (type, dtype, choices, regex, json_schema, ebnf, constraint)
    given = [form for form, value in zip(_FORMS, values, strict=True) if value is not None]
    if on is not None:
        resolve(on)
    if not given:
        return Gen(name, own, _FREE, on)
    if len(given) > 1:
        raise ProgramError(
            f"gen({name!r}): {' and '.join(given)} exclude one another; give one of them"
        )
    if choices is not None:
        return select(name, choices, choices_method=choices_method, on=on)
    schema_form = holes.SchemaForm(strict, whitespace, order)
    return Gen(name, own, _hole(given[0], values, schema_form), on)


def _hole(form: str, values: tuple[Any, ...], schema_form: holes.SchemaForm) -> Hole:
    value = values[_FORMS.index(form)]
    match form:
        case "type":
            return holes.of_type(value)
        case "dtype":
            return holes.of_dtype(value)
        case "regex":
            return holes.of_regex(value)
        case "json_schema":
            return holes.of_schema(value, schema_form)
        case "ebnf":
            return holes.of_grammar(value)
        case _:
            return holes.of_constraint(value)


def gen_int(
    name: str | None = None, max_tokens: int | None = None, **options: Unpack[GenOptions]
) -> Gen | Select:
    """A whole number, as text: `gen(name, dtype=int)`.

    >>> bw.function(lambda: "Ada is " + bw.gen_int("age")).run()["age"]
    '36'
    """
    return gen(name, max_tokens, dtype=int, **options)


def gen_string(
    name: str | None = None, max_tokens: int | None = None, **options: Unpack[GenOptions]
) -> Gen | Select:
    """A string in double quotes, as text: `gen(name, dtype=str)`.

    >>> bw.function(lambda: '{"name": ' + bw.gen_string("name") + "}").run().text()
    '{"name": "Ada"}'
    """
    return gen(name, max_tokens, dtype=str, **options)


def select(
    name: str | None = None,
    choices: "Sequence[str] | EnumMeta | None" = None,
    temperature: float = 0.0,
    choices_method: Method = "token_length_normalized",
    *,
    on: Backend | None = None,
) -> Select:
    """A slot filled with the likeliest of `choices`: texts, or an Enum whose member is then the value.

    `choices_method` is one of SGLang's names or a function of your own. `temperature` is taken for SGLang's
    programs and changes nothing: the choice is never drawn.

    >>> state = bw.function(lambda: "Is it" + bw.select("mood", [" good", " bad"])).run()
    >>> state["mood"], round(state.probs("mood")[" good"], 2)
    (' good', 0.88)
    """
    check_name("select", name)
    if on is not None:
        resolve(on)
    if isinstance(choices, str):
        raise ProgramError(f"select({name!r}): choices must be a list of texts, not one text")
    members = tuple(choices or ())  # once: it may be a generator
    if not members:
        raise ProgramError(f"select({name!r}) has no choices")
    if isinstance(choices, EnumMeta):
        texts = [str(getattr(member, "value", member)) for member in members]
    else:
        texts = [_choice(choice, name) for choice in members]
    if "" in texts:
        raise ProgramError(f"select({name!r}): choice {texts.index('')} is the empty text")
    values = members if any(isinstance(member, Enum) for member in members) else ()
    return Select(name, tuple(texts), named(choices_method), values, on)


def check_name(what: str, name: object) -> None:
    """Raises ProgramError for a slot's name that is no text."""
    if name is not None and not isinstance(name, str):
        raise ProgramError(f"{what}({name!r}): a slot's name is text, not {type(name).__name__}")


def _choice(choice: Any, name: str | None) -> str:
    text = choice.value if isinstance(choice, Enum) else choice
    if not isinstance(text, str):
        raise ProgramError(f"select({name!r}): a choice must be text, not {type(text).__name__}")
    return text


def image(path: str) -> Media:
    """An image, by path; only models that see can be shown one.

    >>> bw.user(bw.image("cat.png") + "What is this?").expr_list[1].path
    'cat.png'
    """
    return Media(path)


def video(path: str, num_frames: int) -> Media:
    """A video, of which `num_frames` frames are shown.

    >>> bw.video("cat.mp4", num_frames=8).frames
    8
    """
    return Media(path, num_frames)


def separate_reasoning(expr: Expr | str, model_type: str = "deepseek-r1") -> Seq:
    """Split what the slots of `expr` give into thought and answer.

    `s[name]` is then the answer, with which the branch goes on, and `s[name + "_reasoning_content"]` the thought.
    `model_type` says how the model marks its thoughts; one that is not known is refused when it is appended.

    >>> state = bw.function(lambda: bw.separate_reasoning(bw.gen("thinking"), "qwen3")).run()
    >>> state["thinking"], state["thinking_reasoning_content"]
    ('4', '2 and 2')
    """
    inner = expression(expr)
    return inner + Reasoning(model_type, inner)
