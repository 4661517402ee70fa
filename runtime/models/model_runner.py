"""Runs plans on the device: the owner of the KV pool's tensors and of the slot table."""

import os
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.kv import KvArrays, KvShapes
from branchwork.runtime.models.batch import Ints, make_batch, make_cache
from branchwork.runtime.models.forward import CompiledForward, Forward, PlainForward, compiled_later
from branchwork.runtime.models.loader import LoadedModel
from branchwork.runtime.models.rope import Rotation
from branchwork.runtime.models.sampling import SampleRows
from branchwork.runtime.plan import (
    MAX_GUESSED,
    Plan,
    Sample,
    Scored,
    Segment,
    SegmentResult,
    StepResult,
)
from branchwork.runtime.runner import Computed

MAX_LOGIT_BYTES = 64 << 20
"""Logits of prompt tokens are made this many bytes at a time: 2,048 rows of a large vocabulary would be a gigabyte."""


def logit_rows_at_once(max_rows: int, vocab_size: int) -> int:
    """Rows of logits there is room for: at least those of a step in which all rows choose, and one of them guesses."""
    return max(max_rows + MAX_GUESSED, MAX_LOGIT_BYTES // (4 * vocab_size))


class ModelRunner:
    """The CPU, one model, one pool. `run` is the only line of the engine that touches the device.

    Slots are 0 to num_slots − 1, rows 0 to max_rows − 1, positions 0 to max_len − 1, and a plan has at most
    `max_tokens` tokens. Tokens are drawn from the first `num_token_ids` ids (None: all that have a logit).
    The pool's memory is reserved here and touched when it is first written. `threads` 0: one for each core.

    `compiled` None: use the compiled network as soon as it is ready; True: wait for it; False: never. For a model that
    is quantised it is always waited for: it alone can run one. `kv_dtype` as for `DeviceRunner`: with K/V
    quantised it is never used; a device's answers are compared with that.
    """

    def __init__(
        self,
        model: LoadedModel,
        num_slots: int,
        max_rows: int,
        max_len: int,
        max_tokens: int = 2048,
        num_token_ids: int | None = None,
        threads: int = 0,
        compiled: bool | None = None,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        config, decoder = model.config, model.decoder
        self.num_slots, self.max_len = num_slots, max_len
        self._num_token_ids = num_token_ids or config.vocab_size
        self._rows = SampleRows(self._num_token_ids)
        self._max_logit_rows = logit_rows_at_once(max_rows, config.vocab_size)
        self._table = np.zeros((max_rows, max_len), dtype=np.int32)
        self._cache = cache = make_cache(
            config,
            num_slots,
            kv_dtype or decoder.dtype,
            torch.from_numpy(self._table),
            Rotation(config.rope, max_len),
        )
        sizes = max_tokens, self._max_logit_rows, threads or os.cpu_count() or 1
        self._forward: Forward = PlainForward(decoder, cache)
        self._faster: Future[CompiledForward] | None = None
        if model.quantize != "none":
            compiled = True
        if cache.k_scale is not None:
            compiled = False
        if compiled is False or not kernels.runs_compiled(decoder.weights):
            return
        if compiled and not kernels.is_compiled(decoder.dtype):
            kernels.start_compiling(decoder.dtype).wait()
        if compiled or kernels.is_compiled(decoder.dtype):
            self._forward = CompiledForward(decoder, cache, *sizes, model.quantize)
        else:
            self._faster = compiled_later(decoder, cache, *sizes)

    steps_ahead = 0
    """What is launched is computed."""

    num_machines = 0
    """Masks come from the host, which is where they are read."""

    def launch(self, plan: Plan) -> Computed:
        """As `run`."""
        return Computed(self.run(plan))

    def run(self, plan: Plan) -> StepResult:
        """Compute the K and V of every segment's tokens, and what its sample, score and pooling ask for."""
        if self._faster is not None and self._faster.done():
            self._forward, self._faster = self._faster.result(), None
        for write in plan.table_writes:
            self._table[write.row, write.start : write.start + len(write.slots)] = write.slots
        batch = make_batch(plan)
        self._table[batch.rows_of_tokens(), batch.positions] = batch.slots
        self._cache.rotation.fill(batch.max_position + 1)
        self._forward.run(batch)
        first_tokens = batch.query_start.tolist()
        chosen = iter(self._sample(plan.segments, first_tokens))
        scored = self._score(plan.segments, first_tokens)
        results = []
        for i, segment in enumerate(plan.segments):
            guessed = tuple([next(chosen) for _ in segment.guessed]) if segment.guessed else ()
            last = None if segment.sample is None else next(chosen)
            hidden = None if segment.pool_hidden is None else self._pool(segment, first_tokens[i])
            results.append(SegmentResult(last, scored.get(i, ()), hidden, guessed))
        return StepResult(tuple(results))

    def read_kv(self, slots: Ints) -> KvArrays:
        """As `KvMemory.read_kv`."""
        return self._cache.read(slots)

    def write_kv(self, slots: Ints, kv: KvArrays) -> None:
        """As `KvMemory.write_kv`."""
        self._cache.write(slots, kv)

    def kv_shapes(self, num_tokens: int) -> KvShapes:
        """As `KvMemory.kv_shapes`."""
        return self._cache.shapes(num_tokens)

    def _sample(
        self, segments: Sequence[Segment], first_tokens: Sequence[int]
    ) -> list[Scored | None]:
        """What is chosen for each segment that asks, in their order: in the places of its guesses, then after them.

        None where no token may stand.
        """
        places: list[int] = []
        samples: list[Sample] = []
        for segment, end in zip(segments, first_tokens[1:], strict=True):
            if segment.sample is not None:
                places += range(end - 1 - len(segment.guessed), end)
                samples += (*segment.guessed, segment.sample)
        if not samples:
            return []
        self._forward.head(_ints(places))
        tokens = self._forward.sample(self._rows.of(samples), self._num_token_ids).tolist()
        chosen: list[Scored | None] = [
            Scored(token, _NAN) if token != kernels.NO_TOKEN else None for token in tokens
        ]
        wanted = {
            row: (tokens[row], sample.top_logprobs)
            for row, sample in enumerate(samples)
            if sample.top_logprobs is not None and tokens[row] != kernels.NO_TOKEN
        }
        if wanted:
            of_rows = _scored(self._forward.logits()[list(wanted)], list(wanted.values()))
            for row, scored in zip(wanted, of_rows, strict=True):
                chosen[row] = scored
        return chosen

    def _score(
        self, segments: Sequence[Segment], first_tokens: Sequence[int]
    ) -> dict[int, tuple[Scored, ...]]:
        """The logprobs of given tokens for each segment (by its index) that asks for them."""
        asked = [
            (i, first_tokens[i] + s.score.first, s.score) for i, s in enumerate(segments) if s.score
        ]
        places = [first + k for _, first, score in asked for k in range(len(score.targets))]
        wanted = [(target, score.top) for _, _, score in asked for target in score.targets]
        results: list[Scored] = []
        for at in range(0, len(places), self._max_logit_rows):
            end = at + self._max_logit_rows
            self._forward.head(_ints(places[at:end]))
            results += _scored(self._forward.logits(), wanted[at:end])
        in_order = iter(results)
        return {i: tuple(next(in_order) for _ in score.targets) for i, _, score in asked}

    def _pool(self, segment: Segment, first: int) -> npt.NDArray[np.float32]:
        states = self._forward.states(first, first + len(segment.token_ids)).float()
        pooled: npt.NDArray[np.float32]
        pooled = (states.sum(0) if segment.pool_hidden == "mean" else states[-1]).numpy()
        return pooled


_NAN = float("nan")


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int32)


def _scored(logits: Tensor, wanted: Sequence[tuple[int, int]]) -> list[Scored]:
    """The logprob of each row's target, and its `top` most likely tokens: `wanted` is (target, top) a row."""
    targets = torch.tensor([target for target, _ in wanted], dtype=torch.int32)
    logprobs = torch.empty(len(wanted), dtype=torch.float32)
    kernels.target_logprobs(logits, targets, logprobs)
    most = min(max(top for _, top in wanted), logits.shape[1])
    return as_scored(wanted, logprobs, *kernels.top_logprobs(logits, most))


def as_scored(
    wanted: Sequence[tuple[int, int]], logprobs: Tensor, ids: Tensor, values: Tensor
) -> list[Scored]:
    """What was computed for rows of (target, top), in plain values: [n], and [n, most] of the most likely tokens."""
    return [
        Scored(target, logprob, tuple(zip(row_ids[:top], row_values[:top], strict=True)))
        for (target, top), logprob, row_ids, row_values in zip(
            wanted, logprobs.tolist(), ids.tolist(), values.tolist(), strict=True
        )
    ]
