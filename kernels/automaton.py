"""Grammars as tables on a device: small machines over tokens, so that a decode step needs no host."""

from dataclasses import dataclass

from torch import Tensor

DONE, FORCED = 1, 2
"""Bits of a state: nothing may follow it; what follows is decided for at least one token."""


@dataclass(frozen=True, slots=True)
class Automata:
    """G machines behind each other. State s of machine g has line state_start[g] + s in `flags` and in the masks.

    class_of     int16  class_of[class_start[g] + token]: tokens that lead alike share a class
    next_state   int32  next_state[next_start[g] + s · num_classes[g] + class]; below 0: the token may not follow
    flags        int8   DONE | FORCED of each state
    class_start, next_start  int64 [G];  num_classes, state_start  int32 [G]
    """

    class_of: Tensor
    next_state: Tensor
    flags: Tensor
    class_start: Tensor
    next_start: Tensor
    num_classes: Tensor
    state_start: Tensor


@dataclass(frozen=True, slots=True)
class Places:
    """Where R requests stand; int32 [R], and int8 [R] for the flags.

    grammar   below 0: the request has none; its state and its line stay as they are
    state     its place in the machine
    mask_row  its line in the masks; below 0: any token
    done      1 when nothing may follow, or when the token may not
    forced    1 when the next token is decided
    """

    grammar: Tensor
    state: Tensor
    mask_row: Tensor
    done: Tensor
    forced: Tensor
