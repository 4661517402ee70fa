"""The official JSON-Schema-Test-Suite, draft 2020-12, required part (MIT; licence beside the data)."""

import json
import lzma
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.grammar.json_schema.naive import accepts
from tests.runtime.grammar.json_schema.verdict import machine, machine_accepts

from branchwork.runtime.grammar.json_schema import compile_schema
from branchwork.runtime.wire.errors import ConstraintError

DATA = Path(__file__).parents[3] / "data" / "json-schema-test-suite" / "draft2020-12.json.xz"

# Valid instances that are refused on purpose, by file and description.
NOT_WRITTEN = {
    "format": "is only an annotation by default",  # the known formats are enforced
    "const": "float",  # whole numbers are written without a fraction
    "enum": "0]|float zero|float one|[1.0]",
    "type": "a float with zero fractional part is an integer",
    "vocabulary": "no validation: invalid number, but it still validates",  # custom metaschemas are not read
}


def groups() -> Iterator[tuple[str, dict[str, Any]]]:
    suite = json.loads(lzma.decompress(DATA.read_bytes()))
    for name, schemas in suite.items():
        for group in schemas:
            yield name, group


def verdicts() -> Iterator[tuple[str, str, str]]:
    """(verdict, file, what) of every test: right, refused, not written, wrong."""
    for name, group in groups():
        tests = group["tests"]
        try:
            rules = compile_schema(json.dumps(group["schema"]), order="any")
        except ConstraintError as error:
            never = str(error).startswith("No value") and not any(test["valid"] for test in tests)
            yield from (
                ("right" if never else "refused", name, f"{error.param}: {error}") for _ in tests
            )
            continue
        for test in tests:
            text = json.dumps(test["data"], ensure_ascii=False)
            what = f"{group['description']}, {test['description']}: {text}"
            if accepts(rules, text) == test["valid"]:
                yield "right", name, what
            elif test["valid"] and any(
                part in what for part in NOT_WRITTEN.get(name, "\0").split("|")
            ):
                yield "not written", name, what
            else:
                yield "wrong", name, what


def test_nothing_is_accepted_wrongly_and_nine_tenths_are_right() -> None:
    found = list(verdicts())
    counts = Counter(verdict for verdict, _, _ in found)
    assert [item for item in found if item[0] == "wrong"] == []
    assert counts["right"] / len(found) >= 0.9, counts
    assert counts["not written"] <= 30, counts


def refusal(schema: Any) -> ConstraintError | None:
    try:
        compile_schema(json.dumps(schema))
    except ConstraintError as error:
        return error
    return None


def test_every_refusal_names_a_place() -> None:
    refused = [error for _, group in groups() if (error := refusal(group["schema"]))]
    assert len(refused) > 20
    assert [error for error in refused if error.param is None] == []
    assert [error for error in refused if error.param and not error.param.startswith("/")] == []


@pytest.mark.slow
def test_the_machine_agrees_with_the_naive_reading() -> None:
    for name, group in groups():
        try:
            rules = compile_schema(json.dumps(group["schema"]), order="any")
        except ConstraintError:
            continue
        grammar = machine(rules)
        for test in group["tests"]:
            text = json.dumps(test["data"], ensure_ascii=False)
            assert machine_accepts(grammar, text) == accepts(rules, text), (name, text)
