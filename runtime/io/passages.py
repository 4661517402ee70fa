"""Texts on their way to tokens: what may name special tokens, and what never does."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Passage(NamedTuple):
    """A piece of a branch's text. `special`: special tokens written in it are read as such."""

    text: str
    special: bool = False


class SpecialToken(NamedTuple):
    """A special token; `lstrip` and `rstrip` say whether it takes the blanks beside it along."""

    token_id: int
    lstrip: bool = False
    rstrip: bool = False


class SpecialTokens:
    """The special tokens of a tokenizer, by the texts that name them."""

    def __init__(self, tokens: Mapping[str, SpecialToken]) -> None:
        self._tokens = tokens
        # Longest first: a token's text may begin with another's.
        names = sorted((name for name in tokens if name), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def cut_out(self, text: str) -> list[str]:
        """The text cut at every special token: texts at even places, special tokens' texts at odd ones."""
        parts, position = [], 0
        for match in self._pattern.finditer(text):
            parts += [text[position : match.start()], match.group()]
            position = match.end()
        return [*parts, text[position:]]

    def split(self, passages: Sequence[Passage]) -> list[str | int]:
        """The joined passages, cut where one names a special token: ids for these, texts between, none empty."""
        parts: list[str | int] = []
        plain, strips = "", False
        for passage in passages:
            pieces = self.cut_out(passage.text) if passage.special else [passage.text]
            for index, piece in enumerate(pieces):
                if index % 2 == 0:
                    plain += piece
                    continue
                token = self._tokens[piece]
                _add(parts, plain.rstrip() if token.lstrip else plain, strips)
                parts.append(token.token_id)
                plain, strips = "", token.rstrip
        _add(parts, plain, strips)
        return parts


def _add(parts: list[str | int], text: str, strip: bool) -> None:
    text = text.lstrip() if strip else text
    if text:
        parts.append(text)
