"""Runs plans on a GPU: decode steps as one launch each, all others operation by operation, one step behind the host.

Launches are done in order, so the host need not wait for one to plan the next: what a step chooses is on the device for
the step after it (`CHOSEN`), and comes to the host through pinned memory when somebody asks for the result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.kv import KvArrays, KvShapes
from branchwork.runtime.models.batch import (
    Batch,
    BatchTensors,
    Ints,
    make_batch,
    make_cache,
    shared_prefixes,
)
from branchwork.runtime.models.decode_program import DecodeProgram, Workspaces
from branchwork.runtime.models.device import STEPS_IN_FLIGHT, Device, Uploads
from branchwork.runtime.models.device_state import DeviceState
from branchwork.runtime.models.loader import LoadedModel
from branchwork.runtime.models.model_runner import as_scored, logit_rows_at_once
from branchwork.runtime.models.rope import Rotation
from branchwork.runtime.models.sampling import sampling_rows
from branchwork.runtime.plan import (
    CHOSEN,
    MAX_GUESSED,
    Plan,
    Sample,
    Scored,
    Segment,
    SegmentResult,
    StepResult,
)

MAX_MACHINES = 64
"""Constraints that the device can follow by itself at once: 78 MB of masks at 151k tokens."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A step on its way: when it is done, and how its results are read then."""

    wait: Callable[[], None]
    read: Callable[[], StepResult]

    def result(self) -> StepResult:
        """See `runtime.runner.Pending`."""
        self.wait()
        return self.read()


Parts = list[SegmentResult]
"""By segment: what came out so far."""


class DeviceRunner:
    """One device, one model, one pool; `runtime.runner.Runner`. Arguments as those of `ModelRunner`.

    `kv_dtype`: of the pool; None: the model's. int8 and float8_e4m3fn are stored with a scale for each slot and head.
    `cascade` False: shared prefixes are read by each request. `graphs` False: decode steps are not captured, which only
    a measurement wants. Graphs are captured here, for 1, 2, 4, … requests; with adapters once more for each, so that
    a step in which nobody has one is what it is without.
    """

    steps_ahead = STEPS_IN_FLIGHT - 1

    def __init__(
        self,
        model: LoadedModel,
        num_slots: int,
        max_rows: int,
        max_len: int,
        max_tokens: int = 2048,
        num_token_ids: int | None = None,
        num_machines: int = MAX_MACHINES,
        kv_dtype: torch.dtype | None = None,
        cascade: bool = True,
        graphs: bool = True,
    ) -> None:
        config, decoder = model.config, model.decoder
        self._device = device = Device(decoder.device)
        self.num_slots, self.max_len = num_slots, max_len
        self.num_machines = min(num_machines, max_rows)
        self._decoder = decoder
        self._num_adapters = 0 if decoder.adapters is None else decoder.adapters.number
        self._num_ids = num_token_ids or config.vocab_size
        self._max_logit_rows = logit_rows_at_once(max_rows, config.vocab_size)
        mask_bytes = max_rows * self._num_ids // 8
        self._uploads = Uploads(device, mask_bytes + 64 * (max_rows + max_tokens) + (1 << 16))
        self._state = DeviceState(
            device, self._uploads, max_rows, max_len, self._num_ids, self.num_machines
        )
        rotation = Rotation(config.rope, max_len, device.where)
        rotation.fill(max_len)
        self._cache = make_cache(
            config, num_slots, kv_dtype or decoder.dtype, self._state.table.tensor, rotation
        )
        most = max_rows + MAX_GUESSED
        buckets = _buckets(max_rows)
        self._workspaces = Workspaces(
            kernels.make_workspace(
                buckets[-1], max(max_tokens, most), config.num_heads, config.head_dim, device.where
            ),
            kernels.make_sampling_workspace(max(most, buckets[-1]), self._num_ids, device.where),
        )
        self._ring = device.pinned(STEPS_IN_FLIGHT + 1, buckets[-1], dtype=torch.int32)
        self._num_launched = 0
        with torch.inference_mode():
            self._programs = {
                (size, shares, adapted): DecodeProgram(
                    size, self._num_ids, decoder, self._cache, self._state, self._workspaces, device, shares, graphs,
                    adapted,
                )
                for size in reversed(buckets)  # the largest takes the memory that all others fit in
                for shares in ((True, False) if cascade and size > 1 else (False,))
                for adapted in ((True, False) if decoder.adapters else (False,))
            }  # fmt: skip
        self._cascade = cascade
        self._buckets = buckets

    @torch.inference_mode()
    def launch(self, plan: Plan) -> _Pending:
        """See `runtime.runner.Runner.launch`."""
        kernels.check_adapters([segment.adapter for segment in plan.segments], self._num_adapters)
        self._num_launched += 1
        self._uploads.turn()
        self._state.send(plan)
        if len(plan.segments) <= self._buckets[-1] and all(map(_is_plain_decode, plan.segments)):
            return self._decode(plan)
        return self._compute(plan)

    @torch.inference_mode()
    def read_kv(self, slots: Ints) -> KvArrays:
        """As `KvMemory.read_kv`; waits for all that is in flight."""
        return self._cache.read(slots)

    @torch.inference_mode()
    def write_kv(self, slots: Ints, kv: KvArrays) -> None:
        """As `KvMemory.write_kv`."""
        self._cache.write(slots, kv)

    def kv_shapes(self, num_tokens: int) -> KvShapes:
        """As `KvMemory.kv_shapes`."""
        return self._cache.shapes(num_tokens)

    # ------------------------------------------------------------------ decode

    def _decode(self, plan: Plan) -> _Pending:
        """One launch: every request has one new token, and its next one is chosen by the program."""
        num = len(plan.segments)
        size = next(size for size in self._buckets if size >= num)
        groups = shared_prefixes(plan) if self._cascade and plan.shared_prefixes else ()
        adapted = any(segment.adapter for segment in plan.segments)
        # Where nobody shares, every layer's look for a shared prefix is left out.
        chosen = self._programs[size, bool(groups), adapted].run(
            plan.segments, groups, self._uploads
        )
        line = self._ring[self._num_launched % len(self._ring)][:num]
        line.copy_(chosen, non_blocking=True)

        def read() -> StepResult:
            tokens = line.tolist()
            return StepResult(tuple([SegmentResult(_chosen(token)) for token in tokens]))

        return _Pending(self._device.mark(), read)

    # ------------------------------------------------------------------ all other steps

    def _compute(self, plan: Plan) -> _Pending:
        """Operation by operation; what the plan asks for is copied to the host behind it."""
        segments = plan.segments
        batch = make_batch(plan)
        first_tokens = batch.query_start.tolist()
        settings = self._settings(segments)  # before the rest: nothing here waits for the device
        hidden = self._decoder.forward(self._batch(batch), self._cache)
        readers = [
            self._sample(segments, first_tokens, hidden, settings),
            self._score(segments, first_tokens, hidden),
            self._pool(segments, first_tokens, hidden),
        ]

        def read() -> StepResult:
            parts = [SegmentResult()] * len(segments)
            for reader in readers:
                reader(parts)
            return StepResult(tuple(parts))

        return _Pending(self._device.mark(), read)

    def _batch(self, batch: Batch) -> BatchTensors:
        copy, counts = self._uploads.copy, np.diff(batch.query_start)
        token_ids = copy(batch.token_ids)
        if (batch.token_ids == CHOSEN).any():
            rows = copy(np.repeat(batch.rows, counts).astype(np.int64))
            token_ids = torch.where(token_ids == CHOSEN, self._state.rows.token[rows], token_ids)
        adapters, adapted = batch.adapters_of_tokens, None
        if adapters is not None and self._decoder.adapters is not None:
            adapted = kernels.make_adapter_rows(
                self._decoder.adapters, len(adapters), self._device.where
            )
            kernels.group_rows(copy(adapters), adapted)
        return BatchTensors(
            token_ids, copy(batch.positions), copy(batch.slots), copy(batch.rows), copy(batch.query_start),
            copy(batch.kv_len), self._workspaces.attention, int(counts.max()), adapted=adapted,
        )  # fmt: skip

    def _settings(self, segments: Sequence[Segment]) -> kernels.DeviceRows | None:
        """How each sample is chosen; without guesses its mask is the row's, which the device may know better."""
        samples = [sample for segment in segments for sample in _samples(segment)]
        if not samples:
            return None
        if not any(segment.guessed for segment in segments):
            samples = [sample._replace(mask=None) for sample in samples]
        return kernels.device_rows(
            sampling_rows(samples, self._num_ids), self._num_ids, self._uploads.copy
        )

    def _sample(
        self,
        segments: Sequence[Segment],
        first_tokens: Sequence[int],
        hidden: Tensor,
        settings: kernels.DeviceRows | None,
    ) -> Callable[[Parts], None]:
        """Choose what the segments ask for: in the places of their guesses, then after their last tokens."""
        asked = [
            (i, first_tokens[i + 1] - 1 - len(segment.guessed) + place, sample)
            for i, segment in enumerate(segments)
            for place, sample in enumerate(_samples(segment))
        ]
        if settings is None:
            return lambda parts: None
        places = self._uploads.copy(np.array([token for _, token, _ in asked], np.int64))
        logits = self._decoder.logits(self._decoder.normed(hidden[places]))
        chosen = torch.zeros(len(asked), dtype=torch.int32, device=self._device.where)
        if any(segment.guessed for segment in segments):
            kernels.sample_on_device(
                logits[:, : self._num_ids], settings, chosen, self._workspaces.sampling
            )
        else:
            self._choose([segments[i] for i, _, _ in asked], logits, settings, chosen)
        there = self._device.fetch(chosen)
        wanted = [r for r, (_, _, s) in enumerate(asked) if s.top_logprobs is not None]
        logprobs = self._logprobs(
            logits[self._uploads.copy(np.array(wanted, np.int64))] if wanted else None,
            chosen[self._uploads.copy(np.array(wanted, np.int64))] if wanted else chosen,
            [asked[r][2].top_logprobs or 0 for r in wanted],
        )

        def read(parts: Parts) -> None:
            results = [_chosen(token) for token in there.tolist()]
            for r, scored in zip(wanted, logprobs(), strict=True):
                results[r] = scored if results[r] is not None else None
            in_order = iter(results)
            for i, segment in enumerate(segments):
                if segment.sample is not None:
                    *guessed, last = (next(in_order) for _ in _samples(segment))
                    parts[i] = parts[i]._replace(sampled=last, guessed=tuple(guessed))

        return read

    def _choose(
        self,
        segments: Sequence[Segment],
        logits: Tensor,
        settings: kernels.DeviceRows,
        chosen: Tensor,
    ) -> None:
        """Choose under the rows' own masks, and let the rows go on from there."""
        state = self._state
        grammar = [
            -1 if s.sample is None or s.sample.place is None else s.sample.place.block
            for s in segments
        ]
        rows = self._uploads.copy(np.array([segment.row for segment in segments], np.int32))
        lanes = kernels.make_lanes(rows)
        kernels.fill_lanes(state.rows, self._cache.slot_table, lanes)
        flags = torch.zeros(2, len(segments), dtype=torch.int8, device=self._device.where)
        places = kernels.Places(
            self._uploads.copy(np.array(grammar, np.int32)), lanes.state, lanes.mask_row, flags[0], flags[1]
        )  # fmt: skip
        kernels.sample_on_device(
            logits[:, : self._num_ids],
            replace(settings, mask=state.masks.tensor, mask_row=lanes.mask_row),
            chosen,
            self._workspaces.sampling,
        )
        kernels.fsm_advance(chosen, state.machines.automata, places)
        kernels.advance_rows(chosen, lanes, state.rows)

    def _score(
        self, segments: Sequence[Segment], first_tokens: Sequence[int], hidden: Tensor
    ) -> Callable[[Parts], None]:
        """The logprobs of given tokens."""
        asked = [
            (i, first_tokens[i] + s.score.first, s.score) for i, s in enumerate(segments) if s.score
        ]
        places = [first + k for _, first, score in asked for k in range(len(score.targets))]
        targets = [target for _, _, score in asked for target in score.targets]
        tops = [score.top for _, _, score in asked for _ in score.targets]
        pieces = []
        for at in range(0, len(places), self._max_logit_rows):
            part = slice(at, at + self._max_logit_rows)
            rows = hidden[self._uploads.copy(np.array(places[part], np.int64))]
            wanted = self._uploads.copy(np.array(targets[part], np.int32))
            logits = self._decoder.logits(self._decoder.normed(rows))
            pieces.append(self._logprobs(logits, wanted, tops[part]))

        def read(parts: Parts) -> None:
            in_order = iter([scored for piece in pieces for scored in piece()])
            for i, _, score in asked:
                scored = tuple(next(in_order) for _ in score.targets)
                parts[i] = parts[i]._replace(scored=scored)

        return read

    def _logprobs(
        self, logits: Tensor | None, targets: Tensor, tops: Sequence[int]
    ) -> Callable[[], list[Scored]]:
        """The targets' logprobs and the most likely tokens beside them, once they are on the host."""
        if logits is None or not tops:
            return list
        logprobs = torch.empty(len(tops), dtype=torch.float32, device=self._device.where)
        kernels.target_logprobs(logits, targets.clamp_min(0), logprobs)
        most = min(max(tops), logits.shape[1])
        found = (targets, logprobs, *kernels.top_logprobs(logits, most))
        ids, *values = map(self._device.fetch, found)
        return lambda: as_scored(list(zip(ids.tolist(), tops, strict=True)), *values)

    def _pool(
        self, segments: Sequence[Segment], first_tokens: Sequence[int], hidden: Tensor
    ) -> Callable[[Parts], None]:
        """Hidden states, summed or the last."""
        fetched = {}
        for i, segment in enumerate(segments):
            if segment.pool_hidden is not None:
                first, last = first_tokens[i], first_tokens[i + 1]
                states = self._decoder.normed(hidden[first:last]).float()
                pooled = states.sum(0) if segment.pool_hidden == "mean" else states[-1]
                fetched[i] = self._device.fetch(pooled)

        def read(parts: Parts) -> None:
            for i, pooled in fetched.items():
                parts[i] = parts[i]._replace(hidden=pooled.numpy())

        return read


def _buckets(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4, … up to the first that holds all rows."""
    sizes = [1]
    while sizes[-1] < max_rows:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def _is_plain_decode(segment: Segment) -> bool:
    """Whether a segment is one token whose successor is chosen without looking at other tokens or at logprobs."""
    sample = segment.sample
    return (
        len(segment.token_ids) == 1
        and sample is not None
        and sample.top_logprobs is None
        and not sample.sampler.has_penalties
        and not sample.sampler.logit_bias
        and segment.score is None
        and segment.pool_hidden is None
        and not segment.guessed
    )


def _samples(segment: Segment) -> tuple[Sample, ...]:
    return () if segment.sample is None else (*segment.guessed, segment.sample)


def _chosen(token: int) -> Scored | None:
    return None if token == kernels.NO_TOKEN else Scored(token, float("nan"))
