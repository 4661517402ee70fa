import pytest
from tests.runtime.grammar.vocabularies import letters

from branchwork.runtime.grammar.compile import compile_constraint
from branchwork.runtime.grammar.machine.program import Program
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import (
    AnyOf,
    Choices,
    Concat,
    Constraint,
    FreeText,
    Regex,
    StructuralTags,
    Tag,
)

LETTERS = letters()
NUMBER = Tag("<n>", Regex("[0-9]+"), "</n>")
WORD = Tag("<w>", Regex("[a-z]+"), "</w>")


def takes(constraint: Constraint, text: str) -> bool:
    program = Program.from_bytes(compile_constraint(constraint).to_bytes())
    matcher = MachineGrammar(program, lexicon_of(LETTERS)).start()
    return matcher.accept_bytes(text.encode()) and matcher.can_end()


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ("", True),
        ("free text, <x> and é", True),
        ("a <n>12</n> b <w>x</w>", True),
        ("<n>x</n>", False),
        ("<n>1</w>", False),
        ("<n>1", False),
        ("<n", True),
        ("<<n>1</n>", True),
    ],
)
def test_a_trigger_begins_a_tag_that_is_held_to_its_content(text: str, is_taken: bool) -> None:
    assert takes(StructuralTags((NUMBER, WORD), ("<n>", "<w>")), text) == is_taken


def test_a_trigger_may_be_shared_by_several_tags() -> None:
    tags = StructuralTags((NUMBER, WORD), ("<n", "<w"))
    assert takes(tags, "x<w>y</w>")
    assert not takes(tags, "x<nothing>")


def test_the_forms_of_structural_tags() -> None:
    tags = (NUMBER, WORD)
    at_least_one = StructuralTags(tags, ("<",), at_least_one=True)
    assert takes(at_least_one, "a<n>1</n>b")
    assert not takes(at_least_one, "a")
    first = StructuralTags(tags, ("<",), stop_after_first=True)
    assert takes(first, "a<n>1</n>")
    assert takes(first, "a")
    assert not takes(first, "a<n>1</n>b")
    only = StructuralTags(tags, (), at_least_one=True, only_tags=True)
    assert takes(only, "<n>1</n><w>a</w>")
    assert takes(only, "<n>1</n>\n<w>a</w>")
    assert not takes(only, "")
    assert not takes(only, "x<n>1</n>")


def test_free_text_ends_where_the_next_part_begins() -> None:
    think = Concat((FreeText(("</think>",)), "</think>", Choices(("yes", "no"))))
    assert takes(think, "hm </thin </think>yes")
    assert not takes(think, "hm </think>maybe")
    assert not takes(think, "hm </think> x </think>yes")
    assert not takes(think, "hm")


def test_any_of_takes_what_an_option_takes() -> None:
    either = AnyOf((Regex("[0-9]+"), Concat(("<", Choices(("a", "b")), ">"))))
    assert takes(either, "12")
    assert takes(either, "<b>")
    assert not takes(either, "<1>")


@pytest.mark.parametrize(
    "constraint",
    [
        StructuralTags((), ("<n>",)),
        StructuralTags((NUMBER,), ("<w>",)),
        FreeText(("",)),
        Choices(()),
        AnyOf(()),
    ],
)
def test_tags_that_make_no_sense_are_refused(constraint: Constraint) -> None:
    with pytest.raises(ConstraintError):
        compile_constraint(constraint)
