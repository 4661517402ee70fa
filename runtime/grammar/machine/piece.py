"""Reading a piece's block: what it says of bytes and states."""

from branchwork.runtime.grammar.machine.jit import (
    compiled,
    int64,
)
from branchwork.runtime.grammar.machine.program import (
    PIECE_HEAD,
    STATE_WORDS,
    Code,
)


@compiled
def class_of(code: Code, piece: int, byte: int) -> int:
    """The column of a byte in a piece's table."""
    return int64((code[piece + 4 + (byte >> 2)] >> ((byte & 3) << 3)) & 255)


@compiled
def flags_of(code: Code, piece: int, state: int) -> int:
    """The flags of a state."""
    return int64(code[piece + PIECE_HEAD + state])


@compiled
def move(code: Code, piece: int, state: int, byte: int) -> int:
    """The state after a byte; 0 is dead."""
    states, width = code[piece], code[piece + 1]
    table = piece + PIECE_HEAD + STATE_WORDS * states
    return int64(code[table + state * width + class_of(code, piece, byte)])


@compiled
def need_of(code: Code, piece: int, state: int) -> int:
    """Counted states between a state and acceptance, at least."""
    return int64(code[piece + PIECE_HEAD + 2 * code[piece] + state])


@compiled
def family_of(code: Code, piece: int, state: int) -> int:
    """The groups of characters that can be read from a state for long (see `spans`), and PASSES_ENDS."""
    at = piece + PIECE_HEAD + 3 * code[piece] + 2 * state
    return int64(code[at]) & 0xFFFFFFFF | int64(code[at + 1]) << 32


@compiled
def span_of(code: Code, piece: int, state: int) -> int:
    """How many characters of a state's family can be read, whichever they are."""
    return int64(code[piece + PIECE_HEAD + 5 * code[piece] + state])
