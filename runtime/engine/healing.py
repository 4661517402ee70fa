"""Token healing: the last token of a prompt is taken back, and its bytes become the beginning of a constraint.

So the model may choose a longer token across the boundary ("http:" and then "//" is one token "://" to it).
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar.interface import MaskRow, Matcher, Outlook, Vocabulary

# Bytes whose continuations are remembered; those of a blank are 60,000 tokens of 151,000.
MAX_REMEMBERED = 64

# So many continuations whose rest is no token of its own are tried one by one. Those beyond are not allowed, which is
# sound: the same bytes can be written by the boundary's own tokens and what follows them.
MAX_TRIED = 512

TokenIds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Continuations:
    """The tokens that begin with some bytes: those that are just these bytes, and the longer ones.

    `longer[i]` is these bytes and then the bytes of token `rests[i]`; `others` are the longer ones whose rest is no
    token, and `other_rests` their rests.
    """

    exact: TokenIds
    longer: TokenIds
    rests: TokenIds
    others: TokenIds
    other_rests: tuple[bytes, ...]


class SortedTokens:
    """The vocabulary in the order of its bytes: the tokens that begin with some bytes stand side by side."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.mask_words = vocabulary.mask_words
        self._token_bytes = vocabulary.token_bytes
        ids = [token for token, data in enumerate(vocabulary.token_bytes) if data]
        ids.sort(key=vocabulary.token_bytes.__getitem__)
        self._ids = ids
        self._ids_of: dict[bytes, tuple[int, ...]] = {}
        for token in ids:
            data = vocabulary.token_bytes[token]
            self._ids_of[data] = (*self._ids_of.get(data, ()), token)
        self._remembered: OrderedDict[bytes, Continuations] = OrderedDict()

    def bytes_of(self, token_id: int) -> bytes:
        """The token's bytes."""
        return self._token_bytes[token_id]

    def has_longer(self, data: bytes) -> bool:
        """Whether a token begins with these bytes and goes on."""
        after = bisect_right(self._ids, data, key=self._token_bytes.__getitem__)
        return after < len(self._ids) and self._token_bytes[self._ids[after]].startswith(data)

    def exactly(self, data: bytes) -> tuple[int, ...]:
        """The tokens with these very bytes."""
        return self._ids_of.get(data, ())

    def continuations(self, prefix: bytes) -> Continuations:
        """All tokens whose bytes begin with `prefix`."""
        known = self._remembered.get(prefix)
        if known is None:
            known = self._remembered[prefix] = self._continuations(prefix)
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(prefix)
        return known

    def _continuations(self, prefix: bytes) -> Continuations:
        longer, rests, others, other_rests = [], [], [], []
        exact = self.exactly(prefix)
        place = bisect_left(self._ids, prefix, key=self._token_bytes.__getitem__)
        first = place + len(exact)
        for token in self._ids[first:]:
            data = self._token_bytes[token]
            if not data.startswith(prefix):
                break
            rest = data[len(prefix) :]
            same = self._ids_of.get(rest)
            if same:
                longer.append(token)
                rests.append(same[0])
            else:
                others.append(token)
                other_rests.append(rest)
        return Continuations(
            _ids(exact), _ids(longer), _ids(rests), _ids(others), tuple(other_rests)
        )


def _ids(tokens: Sequence[int]) -> TokenIds:
    return np.array(tokens, np.int64)


class HealedMatcher:
    """A matcher for `pending` bytes and then what `inner` matches (None: anything)."""

    def __init__(self, pending: bytes, inner: Matcher | None, tokens: SortedTokens) -> None:
        self.pending = pending
        self.inner = inner
        self._tokens = tokens

    def mask(self) -> MaskRow:
        """Tokens inside the pending bytes, and those that go past them in a way that `inner` allows."""
        tokens, pending = self._tokens, self.pending
        bits = np.zeros(32 * tokens.mask_words, np.uint8)
        for length in range(1, len(pending)):
            bits[list(tokens.exactly(pending[:length]))] = 1
        after = tokens.continuations(pending)
        bits[after.exact] = 1
        if self.inner is None:
            bits[after.longer] = 1
            bits[after.others] = 1
        else:
            allowed = np.unpackbits(self.inner.mask().view(np.uint8), bitorder="little")
            bits[after.longer] = allowed[after.rests]
            for token, rest in zip(after.others, after.other_rests[:MAX_TRIED], strict=False):
                bits[token] = self.inner.copy().accept_bytes(rest)
        return np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token_id: int) -> bool:
        """Advance over a token that `mask` allows."""
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

    def outlook(self) -> Outlook:
        """That of `inner`, as far as pending bytes let it be seen."""
        if self.inner is None:
            return Outlook(must_end=False, is_forced=False, closing_len=len(self.pending))
        inner = self.inner.outlook()
        if not self.pending:
            return inner
        closing_len = len(self.pending) + inner.closing_len
        return Outlook(must_end=False, is_forced=False, closing_len=closing_len)

    def forced(self) -> bytes:
        """Nothing while bytes are pending: which token writes them is what healing leaves to the model."""
        return b"" if self.pending or self.inner is None else self.inner.forced()

    def closing(self) -> bytes:
        """The pending bytes, and a shortest end of `inner`."""
        return self.pending + (self.inner.closing() if self.inner is not None else b"")

    def place(self) -> None:
        """Unknown: bytes are pending that no place of the grammar knows of."""

    def copy(self) -> "HealedMatcher":
        """An independent matcher at the same place."""
        inner = self.inner.copy() if self.inner is not None else None
        return HealedMatcher(self.pending, inner, self._tokens)
