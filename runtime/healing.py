"""Token healing: the last token of a prompt is taken back, and its bytes become the beginning of a constraint.

So the model may choose a longer token across the boundary ("http:" and then "//" is one token "://" to it).
"""

from bisect import bisect_left

import numpy as np

from branchwork.runtime.grammar.interface import MaskRow, Matcher, Vocabulary


class SortedTokens:
    """The vocabulary in the order of its bytes: the tokens that begin with some bytes stand side by side."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        pairs = sorted((data, token) for token, data in enumerate(vocabulary.token_bytes) if data)
        self._token_bytes = vocabulary.token_bytes
        self._bytes = [data for data, _ in pairs]
        self._ids = [token for _, token in pairs]

    def bytes_of(self, token_id: int) -> bytes:
        """The token's bytes."""
        return self._token_bytes[token_id]

    def beginning_with(self, prefix: bytes) -> list[tuple[int, bytes]]:
        """All tokens whose bytes begin with `prefix` (itself included)."""
        first = bisect_left(self._bytes, prefix)
        last = first
        while last < len(self._bytes) and self._bytes[last].startswith(prefix):
            last += 1
        return list(zip(self._ids[first:last], self._bytes[first:last], strict=True))

    def exactly(self, data: bytes) -> list[int]:
        """The tokens with these very bytes."""
        index = bisect_left(self._bytes, data)
        found = []
        while index < len(self._bytes) and self._bytes[index] == data:
            found.append(self._ids[index])
            index += 1
        return found


class HealedMatcher:
    """A matcher for `pending` bytes and then what `inner` matches (None: anything)."""

    def __init__(self, pending: bytes, inner: Matcher | None, tokens: SortedTokens) -> None:
        self.pending = pending
        self.inner = inner
        self._tokens = tokens

    def fill_mask(self, row: MaskRow) -> None:
        """Tokens inside the pending bytes, and those that go past them in a way that `inner` allows."""
        tokens, pending = self._tokens, self.pending
        allowed = [
            token for length in range(1, len(pending)) for token in tokens.exactly(pending[:length])
        ]
        for token, data in tokens.beginning_with(pending):
            rest = data[len(pending) :]
            if not rest or self.inner is None or self.inner.copy().accept_bytes(rest):
                allowed.append(token)
        bits = np.zeros(len(row) * 32, np.uint8)
        bits[allowed] = 1
        row[:] = np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token_id: int) -> bool:
        """Advance over a token that `fill_mask` allows."""
        return self.accept_bytes(self._tokens.bytes_of(token_id))

    def accept_bytes(self, data: bytes) -> bool:
        """Advance over bytes."""
        length = min(len(data), len(self.pending))
        rest = data[length:]
        if not data or data[:length] != self.pending[:length]:
            return False
        if rest and self.inner is not None and not self.inner.accept_bytes(rest):
            return False
        self.pending = self.pending[length:]
        return True

    def can_end(self) -> bool:
        """Whether the pending bytes are written and `inner` may end."""
        return not self.pending and (self.inner is None or self.inner.can_end())

    def must_end(self) -> bool:
        """Whether nothing but the end may follow."""
        return not self.pending and self.inner is not None and self.inner.must_end()

    def forced(self) -> bytes:
        """Nothing while bytes are pending: which token writes them is what healing leaves to the model."""
        return b"" if self.pending or self.inner is None else self.inner.forced()

    def closing(self) -> bytes:
        """The pending bytes, and a shortest end of `inner`."""
        return self.pending + (self.inner.closing() if self.inner is not None else b"")

    def closing_len(self) -> int:
        """Not less than the length of `closing`."""
        return len(self.pending) + (self.inner.closing_len() if self.inner is not None else 0)

    def copy(self) -> "HealedMatcher":
        """An independent matcher at the same place."""
        inner = self.inner.copy() if self.inner is not None else None
        return HealedMatcher(self.pending, inner, self._tokens)
