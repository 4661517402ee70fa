"""What the engine knows of a constraint: a compiled `Grammar`, and a `Matcher` for each request that follows it.

Two back ends stand behind it: the compressed state machine of this package, and outlines-core.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

MaskRow = npt.NDArray[np.int32]
"""Packed bits over the vocabulary: bit t % 32 of word t // 32 says whether token t may follow."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens as bytes. `token_bytes[t]` is b"" for special tokens and for ids that may never be sampled.

    `size` is the width of the model's logits (≥ len(token_bytes)); `eos_ids` end a sequence; `bos_id` begins one.
    """

    token_bytes: tuple[bytes, ...]
    eos_ids: tuple[int, ...]
    size: int
    bos_id: int | None = None

    @property
    def mask_words(self) -> int:
        """Length of a mask row in int32 words."""
        return (self.size + 31) // 32


class Outlook(NamedTuple):
    """What is asked of a place after every token, said at once.

    must_end     nothing but the end may follow
    is_forced    `Matcher.forced` has something
    closing_len  at least as many bytes as `Matcher.closing` has
    """

    must_end: bool
    is_forced: bool
    closing_len: int


class Matcher(Protocol):
    """Where one request stands in its grammar. Cheap to copy; never shared between requests."""

    def mask(self) -> MaskRow:
        """The tokens that may follow; an end-of-sequence bit is set exactly if the text may end here.

        Never written to again, by nobody: whoever stands at the same place may have the very same row.
        """
        ...

    def accept(self, token_id: int) -> bool:
        """Advance over a token. False, and nothing changes, if it may not follow."""
        ...

    def accept_bytes(self, data: bytes) -> bool:
        """Advance over bytes that need not be whole tokens. False, and nothing changes, if they may not follow."""
        ...

    def can_end(self) -> bool:
        """Whether the text so far is a whole sentence of the grammar."""
        ...

    def outlook(self) -> Outlook:
        """What may come from here, in short."""
        ...

    def forced(self) -> bytes:
        """The longest run of bytes that every continuation begins with (b"" where there is a choice or an end)."""
        ...

    def closing(self) -> bytes:
        """A shortest run of bytes after which the text may end (b"" if it may end here)."""
        ...

    def place(self) -> Hashable | None:
        """What tells this place from others: from equal places the same may follow, now and later. None: unknown."""
        ...

    def copy(self) -> "Matcher":
        """An independent matcher at the same place."""
        ...


class Grammar(Protocol):
    """A compiled constraint; immutable to its users, shared by all requests that ask for the same one."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not enforced (best effort only), a sentence each."""
        ...

    @property
    def size_bytes(self) -> int:
        """Memory held, for the cache's account."""
        ...

    def start(self) -> Matcher:
        """A matcher at the beginning."""
        ...
