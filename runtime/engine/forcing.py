"""Jump-forward: what a constraint already decides is appended, not sampled.

After SGLang's compressed finite state machine (Zheng et al. 2024, section 4), on bytes: the forced run becomes
canonical tokens, and its last tokens are left to the model unless nothing can follow them, since a longer token that
begins with the same bytes may be what the model would write: after `": [` the token `": ["`. So the language is the
same with and without.
"""

from dataclasses import dataclass

from branchwork.runtime.engine.healing import SortedTokens
from branchwork.runtime.grammar.interface import Matcher
from branchwork.runtime.inbox import EngineTokenizer
from branchwork.runtime.wire.errors import InternalError

# So much is jumped at once: a run may be 64 KiB, and its tokens are made on the engine's thread.
MAX_JUMP_BYTES = 4096

# About the longest token of any vocabulary.
LONGEST_TOKEN = 256


@dataclass(frozen=True, slots=True)
class Jump:
    """Tokens that may be appended at once; `matcher` is where the constraint stands after them.

    `complete`: nothing can follow them.
    """

    token_ids: tuple[int, ...]
    matcher: Matcher
    complete: bool


def find_jump(matcher: Matcher, tokenizer: EngineTokenizer, tokens: SortedTokens) -> Jump | None:
    """The tokens that every continuation begins with, or None where there is a choice. `matcher` does not move."""
    data = matcher.forced()
    if not data:
        return None
    data, whole = _beginning(data), len(data)
    token_ids = tokenizer.encode_bytes(data)
    after = matcher.copy()
    if not after.accept_bytes(data):
        raise InternalError("the constraint forbids the bytes that it forces")
    if len(data) == whole and after.outlook().must_end:
        return Jump(token_ids, after, complete=True)
    count, size = _settled(data, token_ids, tokens)
    if count == 0:
        return None
    after = matcher.copy()
    if not after.accept_bytes(data[:size]):
        raise InternalError("the constraint forbids the bytes that it forces")
    return Jump(token_ids[:count], after, complete=False)


def _settled(data: bytes, token_ids: tuple[int, ...], tokens: SortedTokens) -> tuple[int, int]:
    """How many of the tokens no longer token could swallow together with what follows, and their bytes.

    The last token is never settled.
    """
    count = len(token_ids) - 1
    size = len(data) - len(tokens.bytes_of(token_ids[count]))
    while count:
        before = size - len(tokens.bytes_of(token_ids[count - 1]))
        if not tokens.has_longer(data[before:]):
            break
        count, size = count - 1, before
    return count, size


def _beginning(run: bytes) -> bytes:
    """As much of a run as is jumped at once, in whole characters."""
    size = MAX_JUMP_BYTES
    while size < len(run) and run[size] & 0xC0 == 0x80:
        size -= 1
    return run[:size]


def closes_within(matcher: Matcher, num_tokens: int, tokenizer: EngineTokenizer) -> bool:
    """Whether the text can be ended in so many tokens. A token is a byte at least, so mostly bounds on bytes tell."""
    size = matcher.outlook().closing_len
    if size <= num_tokens or size > num_tokens * LONGEST_TOKEN:
        return size <= num_tokens
    return len(tokenizer.encode_bytes(matcher.closing())) <= num_tokens
