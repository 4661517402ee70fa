"""Choosing tokens on the CPU, without sorting: what top-k and top-p keep is found by radix selection.

A float above zero and its bits, read as an integer, are in the same order. Three passes over the weights fix the
bits of the least one that is kept, ten or twelve at a time (as histogram-based top-k on GPUs does).
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from branchwork.kernels.cpu.cached import borrowing_entry_point
from branchwork.kernels.cpu.layout import highest_of_64
from branchwork.kernels.cpu.vector import bits_of_float, exp, inlined, kernel
from branchwork.kernels.sampling import NO_TOKEN

_BLOCK = 64
_BINS = 4096
_NOTHING = np.float32(-np.inf)
_LEAST_MASS = 1e-300
"""With top-p 0 the most likely token is still kept: there is less than this before it."""


class SamplingScratch(NamedTuple):
    """Working memory for one row at a time, V padded to whole blocks of 64."""

    scores: npt.NDArray[np.float32]  # [V]
    last_seen: npt.NDArray[np.int64]  # [V] number of the last pass that met a token
    passes: npt.NDArray[np.int64]  # [1] how many there were
    counts: npt.NDArray[np.int64]  # [_BINS]
    masses: npt.NDArray[np.float64]  # [_BINS]


def make_scratch(vocab_size: int) -> SamplingScratch:
    """Working memory for a vocabulary."""
    padded = -(-vocab_size // _BLOCK) * _BLOCK
    return SamplingScratch(
        scores=np.zeros(padded, np.float32),
        last_seen=np.zeros(vocab_size, np.int64),
        passes=np.zeros(1, np.int64),
        counts=np.zeros(_BINS, np.int64),
        masses=np.zeros(_BINS, np.float64),
    )


@kernel
def _random_uniform(seed: Any, position: Any) -> Any:
    """`kernels.sampling.random_uniform` in 64-bit words."""
    word = _mix(_mix(np.uint64(seed)) + np.uint64(position + 1) * np.uint64(0x9E3779B97F4A7C15))
    return np.float64(word >> np.uint64(11)) * 2.0**-53


@kernel
def _mix(word: Any) -> Any:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@kernel
def _clean(logits: Any, scores: Any) -> None:
    """Copy a row; NaN and the padding become what is never chosen."""
    for i in range(len(logits)):
        scores[i] = logits[i] if logits[i] == logits[i] else _NOTHING
    for i in range(len(logits), len(scores)):
        scores[i] = _NOTHING


@kernel
def _penalise(rows: Any, row: Any, scores: Any, last_seen: Any, passes: Any) -> None:
    """See `kernels.reference`; each distinct token of the context is scaled once."""
    repetition = rows.repetition_penalty[row]
    passes[0] += 1
    for at in range(rows.context_start[row], rows.context_start[row + 1]):
        token = rows.context_ids[at]
        if last_seen[token] != passes[0]:
            last_seen[token] = passes[0]
            score = scores[token]
            scores[token] = score / repetition if score > 0 else score * repetition
    passes[0] += 1
    for at in range(rows.generated_start[row], rows.generated_start[row + 1]):
        token = rows.generated_ids[at]
        scores[token] -= rows.frequency_penalty[row]
        if last_seen[token] != passes[0]:
            last_seen[token] = passes[0]
            scores[token] -= rows.presence_penalty[row]


@kernel
def _mask(words: Any, scores: Any) -> None:
    """Rule out the tokens whose bit is not set."""
    for w in range(len(words)):
        word = words[w]
        if word == -1:
            continue
        tokens = scores[w * 32 : w * 32 + 32]
        for bit in range(len(tokens)):
            tokens[bit] = tokens[bit] if (word >> bit) & 1 else _NOTHING


@kernel
def _highest(scores: Any) -> Any:
    best = _NOTHING
    for first in range(0, len(scores), _BLOCK):
        best = max(best, highest_of_64(scores[first:].ctypes.data))
    return best


@kernel
def _first_equal(scores: Any, value: Any) -> Any:
    for token in range(len(scores)):
        if scores[token] == value:
            return token
    return NO_TOKEN


@kernel
def _weigh(scores: Any, highest: Any, temperature: Any) -> Any:
    """Scores become weights, 1 for the highest; returns their sum."""
    total = 0.0
    for first in range(0, len(scores), _BLOCK):
        block = scores[first : first + _BLOCK]
        part = np.float32(0)
        for i in range(_BLOCK):
            block[i] = exp((block[i] - highest) / temperature)
            part += block[i]
        total += part
    return total


@kernel
def _cut(weights: Any, max_count: Any, max_mass: Any, scratch: Any) -> Any:
    """Keep the largest weights: the first `max_count`, and those before which there is less than `max_mass`.

    The others become 0; of equal ones the first are kept. Returns the sum of what is left.
    """
    counts, masses = scratch.counts, scratch.masses
    count, mass = 0, 0.0
    prefix = np.int64(0)
    for shift, above in ((20, 32), (10, 20), (0, 10)):
        counts[:] = 0
        masses[:] = 0.0
        for i in range(len(weights)):
            bits = np.int64(bits_of_float(weights[i]))
            if bits > 0 and bits >> above == prefix:
                place = (bits >> shift) & (_BINS - 1 if shift == 20 else 1023)
                counts[place] += 1
                masses[place] += weights[i]
        place = _BINS - 1 if shift == 20 else 1023
        while place > 0 and count + counts[place] < max_count and mass + masses[place] < max_mass:
            count += counts[place]
            mass += masses[place]
            place -= 1
        prefix = (prefix << (above - shift)) | place
    # All weights above `prefix` are kept, and of those equal to it so many as fit.
    equal_left = max_count - count
    total = 0.0
    for i in range(len(weights)):
        bits = np.int64(bits_of_float(weights[i]))
        if bits == prefix and bits > 0:
            if equal_left <= 0 or mass >= max_mass:
                weights[i] = 0
                continue
            equal_left -= 1
            mass += weights[i]
        elif bits < prefix:
            weights[i] = 0
        total += weights[i]
    return total


@kernel
def _drop_below(weights: Any, least: Any) -> Any:
    """Weights below `least` become 0, but the highest is 1 and stays; returns the sum of what is left."""
    total = 0.0
    for i in range(len(weights)):
        weights[i] = weights[i] if weights[i] >= least else np.float32(0)
        total += weights[i]
    return total


@kernel
def _draw(weights: Any, point: Any) -> Any:
    """The token at which the running sum of weights, in the order of ids, passes `point`."""
    passed, last = 0.0, NO_TOKEN
    for token in range(len(weights)):
        weight = weights[token]
        if weight > 0:
            passed += weight
            last = token
            if passed > point:
                break
    return last


@inlined
def _choose(logits: Any, rows: Any, row: Any, scratch: Any) -> Any:
    scores = scratch.scores
    _clean(logits, scores)
    if rows.has_penalties[row]:
        _penalise(rows, row, scores, scratch.last_seen, scratch.passes)
    for at in range(rows.edit_start[row], rows.edit_start[row + 1]):
        scores[rows.edit_ids[at]] += rows.edit_values[at]
    if rows.has_mask[row]:
        _mask(rows.mask[row], scores)
    highest = _highest(scores)
    if highest == _NOTHING:
        return NO_TOKEN
    if rows.temperature[row] == 0:
        return _first_equal(scores, highest)
    total = _weigh(scores, highest, rows.temperature[row])
    if rows.top_k[row] > 0:
        total = _cut(scores, np.int64(rows.top_k[row]), np.inf, scratch)
    if rows.top_p[row] < 1:
        total = _cut(
            scores, np.int64(len(scores)), max(rows.top_p[row] * total, _LEAST_MASS), scratch
        )
    if rows.min_p[row] > 0:
        total = _drop_below(scores, min(rows.min_p[row], np.float32(1)))
    return _draw(scores, _random_uniform(rows.seed[row], rows.position[row]) * total)


@borrowing_entry_point
def choose_tokens(logits: Any, num_ids: Any, rows: Any, scratch: Any, out: Any) -> None:
    """See `api.sample`; only the first `num_ids` of a row of logits are looked at."""
    for row in range(len(out)):
        out[row] = _choose(logits[row, :num_ids], rows, row, scratch)
