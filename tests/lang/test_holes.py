"""Typed holes: the constraint that is derived, and the value that comes back."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from tests.lang.paced import Paced

import branchwork as bw
from branchwork.lang import holes
from branchwork.lang.testing.scripted import Scripted
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import ConstraintError, ProgramError

MakeScript = Callable[..., Scripted]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class City:
    name: str
    population: int
    twin: "City | None" = None
    tags: list[str] = field(default_factory=list)


class Model(pydantic.BaseModel):
    name: str
    size: Annotated[int, pydantic.Field(ge=1, le=9)]


class Row(TypedDict):
    name: str
    colour: Colour


def ask(type_: Any, answer: str) -> tuple[Any, wire.Gen]:
    backend = Scripted({"x": answer})

    @bw.function
    def program(s: bw.State) -> None:
        s += "?" + bw.gen("x", type=type_)

    state = program.run(backend=backend)
    (gen,) = [each for each in backend.instructions if isinstance(each, wire.Gen)]
    return state["x"], gen


def schema_of(gen: wire.Gen) -> dict[str, Any]:
    assert isinstance(gen.constraint, wire.JsonSchema)
    schema: dict[str, Any] = json.loads(gen.constraint.schema)
    return schema


ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (int, "42", 42),
        (int, "-7 ", -7),
        (float, "2.5\n", 2.5),
        (bool, "true", True),
        (bool, "false", False),
        (str, "any text", "any text"),
        (Decimal, "1.10", Decimal("1.10")),
        (date, "2024-02-29", date(2024, 2, 29)),
        (datetime, "2024-02-29T12:30:00Z", datetime.fromisoformat("2024-02-29T12:30:00+00:00")),
        (uuid.UUID, str(ID), ID),
        (Colour, "blue", Colour.BLUE),
        (Literal["yes", "no"], "no", "no"),
        (Literal[1, 2], "2", 2),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (int | None, "null", None),
        (int | str, '"a"', "a"),
        (list[Colour], '["red", "blue"]', [Colour.RED, Colour.BLUE]),
        (Annotated[int, msgspec.Meta(ge=1, le=9)], "3", 3),
        (City, '{"name": "Rome", "population": 3}', City("Rome", 3)),
        (list[City], '[{"name": "Rome", "population": 3}]', [City("Rome", 3)]),
        (Row, '{"name": "a", "colour": "red"}', {"name": "a", "colour": Colour.RED}),
        (Model, '{"name": "a", "size": 3}', Model(name="a", size=3)),
        (list[Model], '[{"name": "a", "size": 3}]', [Model(name="a", size=3)]),
    ],
)
def test_the_value_of_a_typed_slot_is_an_object_of_its_type(
    type_: Any, text: str, value: Any
) -> None:
    got, gen = ask(type_, text)
    assert got == value
    assert type(got) is type(value)
    assert (gen.constraint is None) == (type_ is str)


def test_a_class_becomes_a_closed_schema_in_declared_order() -> None:
    _, gen = ask(City, '{"name": "Rome", "population": 3}')
    city = schema_of(gen)["$defs"]["City"]
    assert list(city["properties"]) == ["name", "population", "twin", "tags"]
    assert city["required"] == ["name", "population"]
    assert city["additionalProperties"] is False


def test_bounds_of_pydantic_reach_the_schema() -> None:
    _, gen = ask(Model, '{"name": "a", "size": 3}')
    size = schema_of(gen)["properties"]["size"]
    assert (size["minimum"], size["maximum"]) == (1, 9)
    assert schema_of(gen)["additionalProperties"] is False


def test_bounds_of_pydantic_in_a_plain_type_are_not_overlooked() -> None:
    _, gen = ask(list[Annotated[int, pydantic.Field(gt=5)]], "[6]")
    assert schema_of(gen)["items"]["exclusiveMinimum"] == 5


def test_bounds_of_msgspec_reach_the_schema() -> None:
    _, gen = ask(Annotated[int, msgspec.Meta(ge=1)], "3")
    assert schema_of(gen)["minimum"] == 1


def test_a_value_gets_more_tokens_than_a_text() -> None:
    _, gen = ask(City, '{"name": "Rome", "population": 3}')
    assert gen.sampling.max_tokens == 1024


def test_a_text_that_is_no_value_of_the_type_says_so() -> None:
    with pytest.raises(ConstraintError, match=r'gen\("x".*cannot be read as its type'):
        ask(City, '{"name": "Ro')


@pytest.mark.parametrize("type_", [complex, Callable[[], None], type("Plain", (), {})])
def test_a_type_without_constraint_is_refused_where_it_is_written(type_: Any) -> None:
    with pytest.raises(ProgramError, match="no constraint can be derived from"):
        bw.gen("x", type=type_)


def test_select_over_an_enum_gives_the_member_and_every_probability() -> None:
    backend = Scripted({"x": "blue"})

    @bw.function
    def program(s: bw.State) -> None:
        s += "?" + bw.select("x", Colour)

    state = program.run(backend=backend)
    assert state["x"] is Colour.BLUE
    assert list(state.probs("x")) == [Colour.RED, Colour.BLUE]
    assert sum(state.probs("x").values()) == pytest.approx(1.0)
    assert state.probs("x")[Colour.BLUE] > 0.8
    assert state.text() == "?blue"


def test_dtype_keeps_the_value_as_text_and_ends_a_number_at_a_blank(script: MakeScript) -> None:
    backend = script(hours="24")

    @bw.function
    def program(s: bw.State) -> None:
        s += "A day has " + bw.gen_int("hours") + " hours"

    assert program.run()["hours"] == "24"
    (gen,) = [each for each in backend.instructions if isinstance(each, wire.Gen)]
    assert gen.constraint == wire.Regex(holes.REGEX_INT)
    assert gen.sampling.stop == (" ", "\n")


def test_an_unknown_dtype_points_to_type() -> None:
    with pytest.raises(
        ProgramError,
        match=r"dtype City is none of .*; for other types write type=City",
    ):
        bw.gen("x", dtype=City)


def test_a_schema_may_be_text_or_a_mapping() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for given in (schema, json.dumps(schema)):
        gen = bw.gen("x", json_schema=given, strict=False)
        assert isinstance(gen, bw.Expr)
        assert gen.hole.constraint == wire.JsonSchema(json.dumps(schema), "best_effort")  # type: ignore[union-attr]
    with pytest.raises(ConstraintError, match="json_schema is no JSON"):
        bw.gen("x", json_schema="{")


def test_the_keys_of_a_schema_come_in_the_order_that_is_asked_for() -> None:
    gen = bw.gen("x", json_schema="{}", order="any", whitespace="any")
    assert isinstance(gen, bw.Expr)
    assert gen.hole.constraint == wire.JsonSchema("{}", "strict", "any", "any")  # type: ignore[union-attr]


# ---------------------------------------------------------------------- partial objects


def partial_city(*members: Any) -> City:
    return City(*members)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"name": "Ro', partial_city("Ro", None, None, None)),
        ('{"name": "Rome", "popu', partial_city("Rome", None, None, None)),
        ('{"name": "Rome", "population": 3', partial_city("Rome", 3, None, None)),
        ('{"name": "Ro\\u00', partial_city("Ro", None, None, None)),
        (
            '{"name": "R", "population": 3, "twin": {"name": "P',
            partial_city("R", 3, partial_city("P", None, None, None), None),
        ),
        (
            '{"name": "R", "population": 3, "twin": null, "tags": ["a", "b',
            partial_city("R", 3, None, ["a", "b"]),
        ),
        ("{", partial_city(None, None, None, None)),
    ],
)
def test_an_object_can_be_told_before_its_text_is_complete(text: str, value: City) -> None:
    hole = holes.of_type(City)
    assert hole.partial is not None
    assert hole.partial(text) == value


def test_every_beginning_of_a_text_gives_an_object_or_says_that_none_has_begun() -> None:
    text = '{"name": "a \\"b\\" \\u00e9", "population": -12, "twin": {"name": "c", "population": 0}, "tags": ["x"]}'
    hole = holes.of_type(City)
    assert hole.partial is not None
    names = [hole.partial(text[:end]).name for end in range(1, len(text) + 1)]
    assert names[-1] == 'a "b" é'
    assert set(names) <= {None, *(names[-1][:end] for end in range(len(names[-1]) + 1))}


def test_a_typed_slot_streams_objects_that_grow() -> None:
    backend = Paced(x='{"name":"New York City","population":3}')

    @bw.function
    def program(s: bw.State) -> None:
        s += "?" + bw.gen("x", type=City)

    state = program.run(stream=True, backend=backend)
    objects = list(backend.one_by_one(state.object_iter("x")))
    assert objects[0].population is None
    assert objects[-1] == City("New York City", 3)
    assert [each.name for each in objects[:3]] == ["New", "New York", "New York City"]


def test_a_pydantic_model_streams_too(script: MakeScript) -> None:
    script(x='{"name": "ab cd", "size": 3}')

    @bw.function
    def program(s: bw.State) -> None:
        s += "?" + bw.gen("x", type=Model)

    objects = list(program.run(stream=True).object_iter("x"))
    assert all(isinstance(each, Model) for each in objects)
    assert objects[-1] == Model(name="ab cd", size=3)
