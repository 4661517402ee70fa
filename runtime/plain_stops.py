"""Stops by plain search: the simplest scanner that is right, for tests."""

import re
from typing import NamedTuple


class PlainHit(NamedTuple):
    """A stop at bytes [start, end)."""

    start: int
    end: int
    matched: str


class PlainScanner:
    """Looks through the whole text at every call. Patterns hold nothing back."""

    def __init__(self, strings: tuple[str, ...], patterns: tuple[str, ...]) -> None:
        self.held = 0
        self._strings = strings
        self._patterns = [(pattern, re.compile(pattern.encode())) for pattern in patterns]
        self._text = b""

    def feed(self, data: bytes) -> PlainHit | None:
        """More bytes; the first stop in the text."""
        self._text += data
        hits = []
        for string in self._strings:
            at = self._text.find(string.encode())
            if at >= 0:
                hits.append(PlainHit(at, at + len(string.encode()), string))
        for pattern, compiled in self._patterns:
            found = compiled.search(self._text)
            if found:
                hits.append(PlainHit(found.start(), found.end(), pattern))
        self.held = max(
            (
                length
                for string in self._strings
                for length in range(1, len(string.encode()))
                if self._text.endswith(string.encode()[:length])
            ),
            default=0,
        )
        return min(hits, key=lambda hit: (hit.end, hit.start), default=None)
