"""From a pattern's dialect to the terms of CPython's parser; refuses by name and position what is not regular."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from branchwork.runtime.grammar import charset
from branchwork.runtime.grammar.charset import Ranges
from branchwork.runtime.wire.errors import ConstraintError

Dialect = Literal["python", "ecma"]

# Characters that stand for \p{...}: high surrogates for private use, which no text holds.
_FIRST_PLACEHOLDER = 0xDB80

# Characters that stand for themselves outside of classes, whatever comes before or after them.
_PLAIN = re.compile(r"[^\\.^$*+?{}\[\]()|]+")

_NOT_REGULAR = (
    (re.compile(r"\(\?P=\w+\)|\\(?![0-3][0-7]{2})[1-9][0-9]?|\\k<\w+>"), "a backreference"),
    (re.compile(r"\(\?\("), "a conditional group"),
    (re.compile(r"\(\?>"), "an atomic group"),
    (re.compile(r"(?:[*+?]|(?<!\\)\{\d*,?\d*\})\+"), "a possessive quantifier"),
)


@dataclass(frozen=True, slots=True)
class Translated:
    """`text` for CPython's parser; `offsets[i]` is where its character i came from.

    `properties` gives the characters for which a placeholder stands.
    """

    text: str
    offsets: tuple[int, ...]
    properties: Mapping[int, Ranges]

    def position(self, index: int) -> int:
        """The place in the original pattern of a place in `text`."""
        if not self.offsets:
            return 0
        return self.offsets[index] if index < len(self.offsets) else self.offsets[-1] + 1


def translate(pattern: str, dialect: Dialect) -> Translated:
    """Read one escape, group opening or character after another.

    Raises ConstraintError (param: the position) for what is not regular.
    """
    writer = _Writer(pattern, dialect)
    while writer.at < len(pattern):
        writer.step()
    return Translated("".join(writer.text), tuple(writer.offsets), writer.properties)


class _Writer:
    def __init__(self, pattern: str, dialect: Dialect) -> None:
        self.pattern, self.dialect = pattern, dialect
        self.at = 0
        self.in_class = False
        self.text: list[str] = []
        self.offsets: list[int] = []
        self.properties: dict[int, Ranges] = {}

    def write(self, text: str, consumed: int) -> None:
        """`text` stands for the next `consumed` characters."""
        self.text.append(text)
        self.offsets += [self.at] * len(text)
        self.at += consumed

    def step(self) -> None:
        """Translate what stands at the current place."""
        plain = None if self.in_class else _PLAIN.match(self.pattern, self.at)
        if plain:
            self.text.append(plain[0])
            self.offsets += range(plain.start(), plain.end())
            self.at = plain.end()
            return
        char = self.pattern[self.at]
        if not self.in_class:
            self._refuse_not_regular()
        if char == "\\":
            return self._escape()
        if self.in_class:
            self.in_class = char != "]"
            # CPython warns of set operations that it may read some day; here they are plain characters.
            return self.write("\\" + char if char in "[&|~" else char, 1)
        if char == "[":
            return self._open_class()
        if self.dialect == "ecma":
            if (
                self.pattern.startswith("(?<", self.at)
                and self.pattern[self.at + 3 : self.at + 4] not in "=!"
            ):
                return self.write("(?P<", 3)
            if char == "{" and not re.compile(r"\{\d+(,\d*)?\}").match(self.pattern, self.at):
                return self.write("\\{", 1)
        self.write(char, 1)

    def _open_class(self) -> None:
        self.in_class = True
        negated = self.pattern.startswith("[^", self.at)
        opening = "[^" if negated else "["
        rest = self.pattern[self.at + len(opening) : self.at + len(opening) + 1]
        if rest == "]" and self.dialect == "ecma":
            self.in_class = False
            return self.write("[\\s\\S]" if negated else "[^\\s\\S]", len(opening) + 1)
        self.write(opening, len(opening))
        if rest == "]":
            self.write("\\]", 1)

    def _refuse_not_regular(self) -> None:
        for form, name in _NOT_REGULAR:
            if form.match(self.pattern, self.at):
                if self.dialect == "ecma" and name == "a possessive quantifier":
                    continue
                raise ConstraintError(
                    f"{name} at position {self.at} is not regular, so it cannot be enforced",
                    str(self.at),
                )

    def _escape(self) -> None:
        pattern, at = self.pattern, self.at
        named = re.compile(r"\\([pP])(?:\{(\^?)([^}]*)\}|([A-Z]))").match(pattern, at)
        if named:
            return self._property(named)
        if self.dialect == "ecma":
            for form, rewrite in _ECMA_ESCAPES:
                found = form.match(pattern, at)
                if found:
                    return self.write(rewrite(found), len(found[0]))
        self.write(pattern[at : at + 2], 2)

    def _property(self, named: "re.Match[str]") -> None:
        negated = (named[1] == "P") != (named[2] == "^")
        try:
            ranges = charset.unicode_property(named[3] or named[4] or "", negated)
        except ConstraintError as error:
            raise ConstraintError(f"{error} (position {self.at})", str(self.at)) from None
        placeholder = _FIRST_PLACEHOLDER + len(self.properties)
        if placeholder >= 0xDC00:
            raise ConstraintError("more than 128 Unicode properties in one pattern", str(self.at))
        self.properties[placeholder] = ranges
        self.write(chr(placeholder), len(named[0]))


def _char(code: int) -> str:
    return re.escape(chr(code))


def _pair(found: "re.Match[str]") -> str:
    high, low = int(found[1], 16), int(found[2], 16)
    return _char(0x10000 + ((high - 0xD800) << 10) + low - 0xDC00)


# ECMA-262, CharacterEscape: what CPython's parser reads differently or not at all.
_ECMA_ESCAPES = (
    (re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"), _pair),
    (re.compile(r"\\u\{([0-9a-fA-F]{1,6})\}"), lambda found: _char(int(found[1], 16))),
    (re.compile(r"\\c([A-Za-z])"), lambda found: _char(ord(found[1]) % 32)),
    (re.compile(r"\\0(?![0-9])"), lambda found: "\\x00"),
    (re.compile(r"\\u(?![0-9a-fA-F]{4})"), lambda found: "u"),
    (re.compile(r"\\x(?![0-9a-fA-F]{2})"), lambda found: "x"),
    (re.compile(r"\\([^0-9bBdDsSwWfnrtvuxkpP])"), lambda found: _char(ord(found[1]))),
)
