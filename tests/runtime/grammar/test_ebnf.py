from itertools import product

import pytest
from tests.runtime.grammar.vocabularies import letters

from branchwork.runtime.grammar.ebnf import ebnf_rules
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.wire.errors import ConstraintError

LETTERS = letters()


def language(text: str, alphabet: str, length: int) -> set[str]:
    grammar = MachineGrammar(lower(ebnf_rules(text)), lexicon_of(LETTERS))
    found = set()
    for size in range(length + 1):
        for word in map("".join, product(alphabet, repeat=size)):
            matcher = grammar.start()
            if matcher.accept_bytes(word.encode()) and matcher.can_end():
                found.add(word)
    return found


@pytest.mark.parametrize(
    ("grammar", "alphabet", "expected"),
    [
        ('root ::= "a" | "b"', "ab", {"a", "b"}),
        ('root ::= "a"? "b"+', "ab", {"b", "ab", "bb", "abb", "bbb"}),
        ('root ::= ("a" | "b" "a"){2}', "ab", {"aa", "aba", "baa"}),
        ('root ::= "a"{1,2}', "a", {"a", "aa"}),
        ('root ::= "a"{2,}', "a", {"aa", "aaa"}),
        ('root ::= "a" root "b" | ""', "ab", {"", "ab"}),
        ("root ::= [^b]", "ab", {"a"}),
        ("root ::= [a-b]*", "ab", {"".join(w) for n in range(4) for w in product("ab", repeat=n)}),
        ('root ::= "(" root ")" | x  # nested\nx ::= "a"', "()a", {"a", "(a)"}),
        ('root ::=\n  "a"\n  | "b" (\n "a" )', "ab", {"a", "ba"}),
        ('root ::= root "a" | "b"', "ab", {"b", "ba", "baa"}),
        ('root ::= e\ne ::= e "+" t | t\nt ::= "a"', "a+", {"a", "a+a"}),
        (r'root ::= "\x61\u0062" "\\"', "ab\\", {"ab\\"}),
        (r"root ::= [\]\-] [a\x62]", "]-ab", {"]a", "]b", "-a", "-b"}),
        ("root ::= .", "ab", {"a", "b"}),
        ('root-1 ::= "x"\nroot ::= root-1 a.b\na.b ::= "y"', "xy", {"xy"}),
    ],
)
def test_a_grammar_takes_exactly_its_sentences(
    grammar: str, alphabet: str, expected: set[str]
) -> None:
    assert language(grammar, alphabet, 3) == expected


def test_palindromes_need_a_stack() -> None:
    grammar = 'root ::= "a" root "a" | "b" root "b" | "c"'
    words = {"".join(w) for n in range(6) for w in product("abc", repeat=n)}
    expected = {w for w in words if w == w[::-1] and w.count("c") == 1 and len(w) % 2}
    assert language(grammar, "abc", 5) == expected


@pytest.mark.parametrize(
    ("grammar", "message", "param"),
    [
        ("root ::= root", "left-recursive", "root"),
        ('root ::= root "a"', "left-recursive", "root"),
        ('root ::= a "x" | "z"\na ::= root "y" | "w"', "left-recursive", None),
        ("root ::= foo", "no rule 'foo'", "foo"),
        ('start ::= "a"', "no rule 'root'", "root"),
        ('root ::= "a"\nroot ::= "b"', "defined twice", "2"),
        ('root ::= "a', "line 1", "1"),
        ('root ::= ("a"', "line 1", "1"),
        ('root ::= "a")', "line 1", "1"),
        ('\nroot ::= "a" "b"{3,1}', "line 2", "2"),
        ("root ::= [b-a]", "wrong way round", "1"),
        ('root ::= "a" root', "no sentence", None),
        ("", "no rule 'root'", "root"),
    ],
)
def test_what_is_wrong_is_refused_by_name(grammar: str, message: str, param: str | None) -> None:
    with pytest.raises(ConstraintError, match=message) as refusal:
        lower(ebnf_rules(grammar))
    assert param is None or refusal.value.param == param
