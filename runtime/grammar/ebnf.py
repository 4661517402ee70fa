"""Grammars in the GBNF dialect (llama.cpp, XGrammar, SGLang) to the intermediate representation.

rule ::= sequence | sequence ...      # a comment; a rule's body may run over lines inside of parentheses,
"text"  [a-z]  [^"]  .  name  ( ... )         and after a bar
x?  x*  x+  x{2}  x{2,}  x{2,5}
"""

import re
from dataclasses import dataclass

from branchwork.runtime.grammar import charset, dfa, ir
from branchwork.runtime.grammar.dfa import Dfa
from branchwork.runtime.grammar.rules import join_regular, without_left_recursion
from branchwork.runtime.wire.errors import ConstraintError

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+|\#[^\n]*)
      | (?P<line>\n)
      | (?P<define>::=)
      | (?P<name>[A-Za-z_][A-Za-z0-9_.-]*)
      | (?P<text>"(?:[^"\\\n]|\\.)*")
      | (?P<set>\[\^?(?:\\.|[^\]\\\n])*\])
      | (?P<count>\{\s*\d*\s*(?:,\s*\d*\s*)?\})
      | (?P<mark>[|()?*+.])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "b": "\b", "a": "\a", "0": "\0"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def ebnf_rules(text: str, root: str = "root") -> ir.Rules:
    """The grammar that `text` writes, beginning at the rule `root`.

    Raises ConstraintError (param: the line, or the rule) for what cannot be read, for unknown rules, and for rules
    that recur on the left.
    """
    rules = _Parser(text).rules()
    if root not in rules:
        raise ConstraintError(f"the grammar has no rule {root!r}", root)
    rules = {name: without_left_recursion(name, node) for name, node in rules.items()}
    return ir.Rules(ir.Reference(root), join_regular(rules))


class _Parser:
    """A recursive-descent reader of the dialect."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._read()
        self._at = 0

    def _read(self) -> list[_Token]:
        found: list[_Token] = []
        at = depth = 0
        while at < len(self._text):
            token = _TOKEN.match(self._text, at)
            if token is None or token.lastgroup is None:
                raise self._error(f"unexpected {self._text[at]!r}", at)
            kind = token.lastgroup
            depth += {"(": 1, ")": -1}.get(token[0], 0)
            # Inside of parentheses a line break is a blank.
            if kind != "blank" and not (kind == "line" and depth > 0):
                found.append(_Token(kind, token[0], at))
            at = token.end()
        return [*found, _Token("line", "\n", len(self._text)), _Token("end", "", len(self._text))]

    def _error(self, message: str, at: int) -> ConstraintError:
        line = self._text.count("\n", 0, at) + 1
        return ConstraintError(f"the grammar cannot be read: {message} in line {line}", str(line))

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _skip_lines(self) -> None:
        while self._peek().kind == "line":
            self._at += 1

    def rules(self) -> dict[str, ir.Node]:
        """All rules by name."""
        found: dict[str, ir.Node] = {}
        self._skip_lines()
        while self._peek().kind != "end":
            name = self._take()
            if name.kind != "name" or self._take().kind != "define":
                raise self._error("a rule begins with its name and ::=", name.at)
            if name.text in found:
                raise self._error(f"the rule {name.text!r} is defined twice", name.at)
            self._skip_lines()
            found[name.text] = self._alternation()
            if self._peek().kind not in ("line", "end"):
                raise self._error(f"unexpected {self._peek().text!r}", self._peek().at)
            self._skip_lines()
        return found

    def _alternation(self) -> ir.Node:
        options = [self._sequence()]
        while self._next_is_bar():
            self._skip_lines()
            self._take()
            self._skip_lines()
            options.append(self._sequence())
        return options[0] if len(options) == 1 else ir.Alternation(tuple(options))

    def _next_is_bar(self) -> bool:
        at = self._at
        while self._tokens[at].kind == "line":
            at += 1
        return self._tokens[at].text == "|" and self._tokens[at].kind == "mark"

    def _sequence(self) -> ir.Node:
        parts: list[ir.Node] = []
        while True:
            token = self._peek()
            if token.kind in ("line", "end") or token.text in ("|", ")"):
                return parts[0] if len(parts) == 1 else ir.Concat(tuple(parts))
            parts.append(self._repeated(self._item()))

    def _item(self) -> ir.Node:
        token = self._take()
        if token.kind == "name":
            return ir.Reference(token.text)
        if token.kind == "text":
            return ir.Literal("".join(self._chars(token.text[1:-1], token.at)).encode())
        if token.kind == "set":
            return ir.Piece(self._set(token))
        if token.text == ".":
            return ir.Piece(dfa.any_char())
        if token.text == "(":
            inner = self._alternation()
            if self._take().text != ")":
                raise self._error("a parenthesis is not closed", token.at)
            return inner
        raise self._error(f"unexpected {token.text!r}", token.at)

    def _repeated(self, item: ir.Node) -> ir.Node:
        while True:
            token = self._peek()
            if token.kind == "count":
                bounds = token.text[1:-1].split(",")
                low = int(bounds[0].strip() or 0)
                high = low if len(bounds) == 1 else int(bounds[1]) if bounds[1].strip() else None
                if high is not None and high < low:
                    raise self._error("a repetition's bounds are the wrong way round", token.at)
            elif token.kind == "mark" and token.text in "?*+":
                low, high = {"?": (0, 1), "*": (0, None), "+": (1, None)}[token.text]
            else:
                return item
            self._take()
            item = ir.Repeat(item, low, high)

    def _chars(self, text: str, at: int) -> list[str]:
        """The characters that a text or set writes, escapes resolved."""
        found: list[str] = []
        i = 0
        while i < len(text):
            if text[i] != "\\":
                found.append(text[i])
                i += 1
                continue
            code = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})").match(
                text, i + 1
            )
            if code:
                number = int(code[1] or code[2] or code[3], 16)
                if number > charset.MAX_CHAR or 0xD800 <= number <= 0xDFFF:
                    raise self._error(f"there is no character \\{code[0]}", at)
                found.append(chr(number))
                i = code.end()
            else:
                found.append(_ESCAPES.get(text[i + 1], text[i + 1]))
                i += 2
        return found

    def _set(self, token: _Token) -> Dfa:
        body = token.text[1:-1]
        negated = body.startswith("^")
        body = body[1:] if negated else body
        # An escaped hyphen is a character, a bare one between two characters a range.
        parts = re.findall(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|.", body, re.S)
        chars = ["".join(self._chars(part, token.at)) for part in parts]
        ranges: list[tuple[int, int]] = []
        i = 0
        while i < len(parts):
            if i + 2 < len(parts) and parts[i + 1] == "-":
                low, high = ord(chars[i]), ord(chars[i + 2])
                if low > high:
                    raise self._error("a range is the wrong way round", token.at)
                ranges.append((low, high))
                i += 3
            else:
                ranges.append((ord(chars[i]), ord(chars[i])))
                i += 1
        found = charset.normal(ranges)
        return dfa.chars(*(charset.complement(found) if negated else found))
