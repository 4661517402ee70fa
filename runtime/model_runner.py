"""Runs plans on the device: the owner of the KV pool's tensors and of the slot table."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.batch import Batch, KvCache
from branchwork.runtime.models.loader import LoadedModel
from branchwork.runtime.plan import Plan, Scored, Segment, SegmentResult, Slots, StepResult
from branchwork.runtime.sampling import sampling_rows

MAX_LOGIT_BYTES = 64 << 20
"""Logits of prompt tokens are made this many bytes at a time: 2,048 rows of a large vocabulary would be a gigabyte."""


class ModelRunner:
    """One device, one model, one pool. `run` is the only line of the engine that touches the device.

    Slots are 0 to num_slots − 1, rows 0 to max_rows − 1, positions 0 to max_len − 1. The pool's memory
    is reserved here and touched when it is first written.
    """

    def __init__(self, model: LoadedModel, num_slots: int, max_rows: int, max_len: int) -> None:
        config, dtype = model.config, model.decoder.dtype
        self.num_slots = num_slots
        self.max_len = max_len
        shape = (num_slots, config.num_kv_heads, config.head_dim)
        self._decoder = model.decoder
        self._vocab_size = config.vocab_size
        self._table = np.zeros((max_rows, max_len), dtype=np.int32)
        self._cache = KvCache(
            k=tuple(torch.empty(shape, dtype=dtype) for _ in range(config.num_layers)),
            v=tuple(torch.empty(shape, dtype=dtype) for _ in range(config.num_layers)),
            slot_table=torch.from_numpy(self._table),
        )

    @torch.inference_mode()
    def run(self, plan: Plan) -> StepResult:
        """Compute the K and V of every segment's tokens, and what its sample, score and pooling ask for."""
        for write in plan.table_writes:
            self._write(write.row, write.start, write.slots)
        for segment in plan.segments:
            self._write(segment.row, segment.start, segment.slots)
        batch = _batch(plan.segments)
        hidden = self._decoder.forward(batch, self._cache)
        first_tokens = batch.query_start.tolist()
        sampled = self._sample(plan.segments, first_tokens, hidden)
        scored = self._score(plan.segments, first_tokens, hidden)
        return StepResult(
            tuple(
                SegmentResult(
                    sampled.get(i), scored.get(i, ()), self._pool(segment, first_tokens[i], hidden)
                )
                for i, segment in enumerate(plan.segments)
            )
        )

    def _write(self, row: int, start: int, slots: Slots) -> None:
        self._table[row, start : start + len(slots)] = slots

    def _sample(
        self, segments: Sequence[Segment], first_tokens: Sequence[int], hidden: Tensor
    ) -> dict[int, Scored]:
        """The token chosen for each segment (by its index) that asks for one and may have one."""
        asked = [(i, s.sample) for i, s in enumerate(segments) if s.sample is not None]
        if not asked:
            return {}
        last_tokens = [first_tokens[i + 1] - 1 for i, _ in asked]
        logits = self._logits(hidden, last_tokens)
        chosen = torch.empty(len(asked), dtype=torch.int32)
        kernels.sample(
            logits, sampling_rows([sample for _, sample in asked], self._vocab_size), chosen
        )
        tokens = chosen.tolist()
        tops = [sample.top_logprobs for _, sample in asked]
        rows = [
            r for r, top in enumerate(tops) if top is not None and tokens[r] != kernels.NO_TOKEN
        ]
        results = [Scored(token, float("nan")) for token in tokens]
        if rows:
            wanted = [(tokens[r], tops[r] or 0) for r in rows]
            for r, scored in zip(rows, _scored(logits[rows], wanted), strict=True):
                results[r] = scored
        return {
            i: result
            for (i, _), result in zip(asked, results, strict=True)
            if result.token_id != kernels.NO_TOKEN
        }

    def _score(
        self, segments: Sequence[Segment], first_tokens: Sequence[int], hidden: Tensor
    ) -> dict[int, tuple[Scored, ...]]:
        """The logprobs of given tokens for each segment (by its index) that asks for them."""
        asked = [
            (i, first_tokens[i] + s.score.first, s.score) for i, s in enumerate(segments) if s.score
        ]
        places = [first + k for _, first, score in asked for k in range(len(score.targets))]
        wanted = [(target, score.top) for _, _, score in asked for target in score.targets]
        chunk = max(1, MAX_LOGIT_BYTES // (4 * self._vocab_size))
        results: list[Scored] = []
        for at in range(0, len(places), chunk):
            logits = self._logits(hidden, places[at : at + chunk])
            results.extend(_scored(logits, wanted[at : at + chunk]))
        in_order = iter(results)
        return {i: tuple(next(in_order) for _ in score.targets) for i, _, score in asked}

    def _logits(self, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
        rows = hidden if len(tokens) == len(hidden) else hidden[list(tokens)]
        return self._decoder.logits(self._decoder.normed(rows))

    def _pool(self, segment: Segment, first: int, hidden: Tensor) -> "np.ndarray | None":
        if segment.pool_hidden is None:
            return None
        rows = self._decoder.normed(hidden[first : first + len(segment.token_ids)]).float()
        pooled = rows.sum(0) if segment.pool_hidden == "mean" else rows[-1]
        return pooled.numpy()


def _batch(segments: Sequence[Segment]) -> Batch:
    counts = np.fromiter((len(s.token_ids) for s in segments), dtype=np.int32)
    starts = np.fromiter((s.start for s in segments), dtype=np.int32)
    query_start = np.zeros(len(segments) + 1, dtype=np.int32)
    np.cumsum(counts, out=query_start[1:])
    # Token t of request i stands at starts[i] + (t - query_start[i]).
    num_tokens = int(query_start[-1])
    positions = np.arange(num_tokens, dtype=np.int32) + np.repeat(starts - query_start[:-1], counts)
    token_ids = np.fromiter(
        chain.from_iterable(s.token_ids for s in segments), np.int32, num_tokens
    )
    return Batch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(np.concatenate([s.slots for s in segments])),
        rows=torch.from_numpy(np.fromiter((s.row for s in segments), dtype=np.int32)),
        query_start=torch.from_numpy(query_start),
        kv_len=torch.from_numpy(starts + counts),
        max_position=int(positions.max()),
    )


def _scored(logits: Tensor, wanted: Sequence[tuple[int, int]]) -> list[Scored]:
    """The logprob of each row's target, and its `top` most likely tokens: `wanted` is (target, top) a row."""
    targets = torch.tensor([target for target, _ in wanted], dtype=torch.int32)
    logprobs = torch.empty(len(wanted), dtype=torch.float32)
    kernels.target_logprobs(logits, targets, logprobs)
    most = min(max(top for _, top in wanted), logits.shape[1])
    ids, values = kernels.top_logprobs(logits, most)
    return [
        Scored(target, logprob, tuple(zip(row_ids[:top], row_values[:top], strict=True)))
        for (target, top), logprob, row_ids, row_values in zip(
            wanted, logprobs.tolist(), ids.tolist(), values.tolist(), strict=True
        )
    ]
