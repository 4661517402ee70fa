"""How the next token of each row of logits is to be chosen, as arrays; and the randomness behind the choice."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NO_TOKEN = -1
"""What is chosen where nothing may follow."""

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def _mix(word: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014, figure 15)."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def random_uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on (seed, position) alone: the same in any batch and on any device."""
    word = _mix((_mix(seed & _WORD) + (position + 1) * _GOLDEN) & _WORD)
    return (word >> 11) * 2.0**-53


class SamplingRows(NamedTuple):
    """One line for each row of logits. Ids outside of the vocabulary are the caller's to refuse.

    temperature, top_p, min_p                       float32 [R]; temperature 0: the most likely token
    top_k                                           int32 [R]; 0: no bound
    repetition, frequency, presence_penalty         float32 [R]; read where `has_penalties`
    seed, position                                  int64 [R]
    has_mask, has_penalties                         bool [R]
    mask                                            int32 [R, ceil(vocab / 32)]; read where `has_mask`
    edit_start, edit_ids, edit_values               int32 [R + 1], int32 [E], float32 [E]: added; −inf bans
    context_start, context_ids                      int32 [R + 1], int32 [C]: tokens the repetition penalty looks at
    generated_start, generated_ids                  int32 [R + 1], int32 [G]: tokens the other penalties count
    """

    temperature: npt.NDArray[np.float32]
    top_p: npt.NDArray[np.float32]
    min_p: npt.NDArray[np.float32]
    top_k: npt.NDArray[np.int32]
    repetition_penalty: npt.NDArray[np.float32]
    frequency_penalty: npt.NDArray[np.float32]
    presence_penalty: npt.NDArray[np.float32]
    seed: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    has_mask: npt.NDArray[np.bool_]
    has_penalties: npt.NDArray[np.bool_]
    mask: npt.NDArray[np.int32]
    edit_start: npt.NDArray[np.int32]
    edit_ids: npt.NDArray[np.int32]
    edit_values: npt.NDArray[np.float32]
    context_start: npt.NDArray[np.int32]
    context_ids: npt.NDArray[np.int32]
    generated_start: npt.NDArray[np.int32]
    generated_ids: npt.NDArray[np.int32]

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.temperature)

    def edits_of(self, row: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The row's ids and what is added to their logits."""
        span = slice(self.edit_start[row], self.edit_start[row + 1])
        return self.edit_ids[span], self.edit_values[span]

    def context_of(self, row: int) -> npt.NDArray[np.int32]:
        """All tokens so far of the row's request."""
        return self.context_ids[self.context_start[row] : self.context_start[row + 1]]

    def generated_of(self, row: int) -> npt.NDArray[np.int32]:
        """The tokens that the row's slot has so far."""
        return self.generated_ids[self.generated_start[row] : self.generated_start[row + 1]]
