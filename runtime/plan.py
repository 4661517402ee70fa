"""One step of the engine as a value: what the scheduler decides and the model runner does.

Prefill, chunked prefill, decode, jump-forward, speculation and `select` are one case: *a request has tokens whose
K/V is not computed yet; a step computes some of them*. A `Plan` names them; a `StepResult` says what came out.
Plain Python and numpy: a plan can be printed, compared, and made by hand in a test. What is made for every token is a
named tuple, which takes a third of a frozen dataclass's time.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar.token_machine import TokenMachine

MAX_GUESSED = 16
"""Guessed tokens of one plan, at most."""

CHOSEN = -1
"""In place of a token id: the token that the step before chose for this row, which the host has not seen yet."""

Slots = npt.NDArray[np.int32]
"""Places in the KV pool, one for each token."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """How one request's next token is chosen. Made once a request; read by the model runner every step.

    `seed` is never None here. `logit_bias` pairs are (token id, bias). The token at branch position p is drawn
    with randomness that depends on (seed, p) alone, so the text is the same in any batch.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int
    logit_bias: tuple[tuple[int, float], ...]
    banned: tuple[int, ...] = ()

    @property
    def has_penalties(self) -> bool:
        """Whether the choice depends on the tokens so far."""
        return (
            self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
            or self.repetition_penalty != 1.0
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands in a machine that the device follows: `block` holds `machine` from this step on.

    `state` None: where the step before leads, which the host has not seen yet.
    """

    block: int
    machine: TokenMachine
    state: int | None


class Sample(NamedTuple):
    """Choose the token that follows the segment's last one.

    `mask` is a packed row over the vocabulary (bit t of word t // 32 set: token t may follow), or None: all may, or
    those that the machine of `place` allows. Nothing is banned beside a `place`.
    `banned` ids may not follow in this step (end of sequence before `min_tokens`). `top_logprobs` None: no
    logprob is needed. `context` and `generated` are the tokens that penalties look at (all so far; those of this slot).
    """

    sampler: Sampler
    position: int
    mask: npt.NDArray[np.int32] | None = None
    banned: tuple[int, ...] = ()
    top_logprobs: int | None = None
    context: tuple[int, ...] = ()
    generated: tuple[int, ...] = ()
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Give the logprob of each of `targets`: of targets[i] after the segment's token `first + i`.

    `top` as in `Sample.top_logprobs`. Used by `select` and by prompt logprobs.
    """

    first: int
    targets: tuple[int, ...]
    top: int = 0


class Segment(NamedTuple):
    """Some tokens of one request: their K/V is computed and written to `slots` in this step.

    `row` is the request's line in the slot table, `start` the position of the first token. All earlier positions'
    K/V is in the pool. `sample` (for the position after the last token) and `score` say which logits are needed;
    `pool_hidden` asks for the last layer's hidden states of all the segment's tokens, summed ("mean") or the last.
    The last len(guessed) tokens are guesses, and `guessed` samples the position of each. A token that the step before
    chooses while this one is planned is `CHOSEN`, and alone in its segment. `adapter` numbers the low-rank adapter that
    the request is computed with, from 1 on in the order they were loaded; 0: the model as it is.
    """

    row: int
    start: int
    token_ids: tuple[int, ...]
    slots: Slots
    sample: Sample | None = None
    score: Score | None = None
    pool_hidden: Literal["mean", "last"] | None = None
    guessed: tuple[Sample, ...] = ()
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class TableWrite:
    """Before the step: slot_table[row, start : start + len(slots)] = slots (a prefix found in the tree)."""

    row: int
    start: int
    slots: Slots


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Requests (by row) whose first `length` positions are the very same slots: attention may read them once."""

    rows: tuple[int, ...]
    length: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One forward pass. Every row appears at most once; the sum of tokens is within the budget."""

    segments: tuple[Segment, ...]
    table_writes: tuple[TableWrite, ...] = ()
    shared_prefixes: tuple[SharedPrefix, ...] = ()

    @property
    def num_tokens(self) -> int:
        """New tokens in the step."""
        return sum([len(segment.token_ids) for segment in self.segments])


class Scored(NamedTuple):
    """A token's log-probability in nats, and the most likely tokens at its place, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class SegmentResult(NamedTuple):
    """What came out of one segment; absent parts were not asked for.

    `sampled` carries the chosen token; its logprob is of the model's own distribution (temperature 1, before mask,
    bias and penalties) and is NaN when not asked for. `hidden` is float32 [hidden_size]. `guessed` carries what was
    sampled in the place of each guess, None where nothing may stand.
    """

    sampled: Scored | None = None
    scored: tuple[Scored, ...] = ()
    hidden: npt.NDArray[np.float32] | None = None
    guessed: tuple[Scored | None, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """One result for each segment of the plan, in its order."""

    results: tuple[SegmentResult, ...]
