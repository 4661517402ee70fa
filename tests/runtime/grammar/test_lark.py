"""Grammars in Lark's dialect accept what Lark's own parser accepts when it cuts a text in every possible way."""

from contextlib import closing
from itertools import product

import lark
import pytest
from tests.runtime.grammar.vocabularies import letters

from branchwork.runtime.grammar.compile import compile_constraint
from branchwork.runtime.grammar.compiler import GrammarCompiler
from branchwork.runtime.grammar.lark import WARNING
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.grammar.rules import dialect_of
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import Ebnf

LETTERS = letters()

SUMS = """
?start: sum | NAME "=" sum  -> assign
?sum: product | sum "+" product  -> add
?product: atom | product "*" atom
?atom: NAME | "-" atom | "(" sum ")"
NAME: "a".."b"+
%ignore " "
"""
LISTS = """
start: _list{item, ","}
_list{x, s}: x (s x)*
item: A | "[" [_list{item, ","}] "]"
A: "a"
"""
GRAMMARS = [
    (SUMS, "ab=+( ", 5),
    (LISTS, "a,[]", 6),
    ('start: "a" start "b" |', "ab", 6),
    ("start: X~2..3 y?\nX: /a|b/\ny: X", "ab", 5),
    ('start: "AB"i | /a+/i "."', "abAB.", 4),
    ('start: A A\nA.2: "a"+\n%ignore /b/', "ab", 6),
    ('start: (x | y)+ // either\n!x: "a" y\ny: ["b"]  "a"', "ab", 6),
]


def accepts(grammar: MachineGrammar, word: str) -> bool:
    matcher = grammar.start()
    return matcher.accept_bytes(word.encode()) and matcher.can_end()


@pytest.mark.parametrize(("text", "alphabet", "length"), GRAMMARS)
def test_it_accepts_what_larks_parser_does(text: str, alphabet: str, length: int) -> None:
    parser = lark.Lark(text, parser="earley", lexer="dynamic_complete")
    program = compile_constraint(Ebnf(text))
    grammar = MachineGrammar(program, lexicon_of(LETTERS))
    assert program.warnings == (WARNING,)
    for size in range(length + 1):
        for word in map("".join, product(alphabet, repeat=size)):
            try:
                parser.parse(word)
                expected = True
            except lark.LarkError:
                expected = False
            assert accepts(grammar, word) == expected, word


def test_terminals_of_its_library_can_be_imported() -> None:
    text = 'start: pair+\npair: CNAME ":" (ESCAPED_STRING | SIGNED_NUMBER)\n'
    text += "%import common (CNAME, ESCAPED_STRING, SIGNED_NUMBER)\n%import common.WS\n%ignore WS"
    grammar = MachineGrammar(compile_constraint(Ebnf(text)), lexicon_of(LETTERS))
    assert accepts(grammar, 'size: -1.5e3\n name : "a\\"b"')
    assert not accepts(grammar, "size: x")


def test_another_rule_can_be_the_beginning() -> None:
    grammar = MachineGrammar(
        compile_constraint(Ebnf('a: "x"\nb: "y" a', root="b")), lexicon_of(LETTERS)
    )
    assert accepts(grammar, "yx")
    assert not accepts(grammar, "x")


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ('root ::= "a: b"', "gbnf"),
        ('# root: this\nroot::="a"', "gbnf"),
        ('?start: "a ::= b"', "lark"),
        ('x.2: "a"\nstart: x', "lark"),
        ("_a{x}: x\nstart: _a{B}\nB: /b/", "lark"),
        ("nonsense", "gbnf"),
    ],
)
def test_a_dialect_is_told_by_how_a_rule_begins(text: str, dialect: str) -> None:
    assert dialect_of(text) == dialect


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("start: A", "Rule 'A' used but not defined"),
        ('start: a\na: b "x"\nb: a "y" | "z"', "left-recursive"),
        ("start: A\nA: /(a)\\1/", "terminal A"),
        ("start: A\n%import .secret.A", "not of Lark's own library"),
        ("start: A\n%import etc.passwd.A", "not of Lark's own library"),
        ("start: A\n%declare A", "A"),
        ("start: (((", "cannot be read"),
        ('begin: "a"', "start"),
        ("start: start", "start"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConstraintError, match=sentence):
        compile_constraint(Ebnf(text))


HOSTILE = {
    "a template without end": 'start: a{B}\na{x}: x a{a{x}}\nB: "b"',
    "3,000 parentheses": "start: " + "(" * 3000 + '"a"' + ")" * 3000,
    "2^24 ways": "start: " + " ".join(f"[A{i}]" for i in range(24)) + "\n"
    + "".join(f'A{i}: "a{i}"\n' for i in range(24)),
    "20,000 rules": "start: a0\n" + "".join(f"a{i}: a{i + 1} a{i + 1}\n" for i in range(20_000)) + 'a20000: "a"',
}  # fmt: skip


@pytest.mark.timeout(600)
def test_what_is_meant_to_do_harm_is_refused_and_the_next_is_served() -> None:
    # A second of CPU takes ten of the clock beside other tests, as the child lets everybody go first. A new child also
    # loads Lark in this time: with 0.3 s the good grammar was once refused.
    options = RuntimeConfig(grammar_timeout=0.8)
    with closing(GrammarCompiler(LETTERS, options)) as compiler:
        for text in HOSTILE.values():
            with pytest.raises(ConstraintError):
                compiler.submit(Ebnf(text)).result(100)
        assert compiler.submit(Ebnf('start: "a"')).result(100).start().accept_bytes(b"a")
