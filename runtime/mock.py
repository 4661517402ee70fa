"""A runtime without a model: real engine, scheduler, cache and tasks over a runner that only pretends.

The pretended model is a function of the adapter and all tokens so far, so it writes the same text whatever is cached,
chunked or shared; and its pool remembers whose K/V lies in each slot, so that reading a wrong slot is found at once.
"""

from collections import deque
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from branchwork.runtime.engine.engine import Engine
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.token_machine import TokenMachine
from branchwork.runtime.inbox import Arrival, Operation
from branchwork.runtime.kv import Ints, KvArrays, KvShapes, Store
from branchwork.runtime.plan import (
    CHOSEN,
    Plan,
    Sample,
    Scored,
    Segment,
    SegmentResult,
    StepResult,
)
from branchwork.runtime.runner import Computed, Runner
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import Event

Words = npt.NDArray[np.uint64]

_MERGES = (
    " the", " a", "the", "th", "he", "in", "er", "an", " is", "ing", "\n\n", '{"', '": "', '", "', '"}', '": ',
    "name", "age", "true", "false", "null", "Par", "Paris", " Paris", "London", " London", "http", "://", "ab",
)  # fmt: skip

EOS_ID = 256
"""The end of sequence in `mock_vocabulary`: 256 bytes stand before it, whole words behind it."""


def mock_vocabulary(words: Sequence[str] = _MERGES) -> Vocabulary:
    """Every byte, an end of sequence, and some longer tokens."""
    return _vocabulary(tuple(words))


@cache
def _vocabulary(words: tuple[str, ...]) -> Vocabulary:
    token_bytes = [bytes([value]) for value in range(256)]
    token_bytes += [b"", *(word.encode() for word in words)]
    size = (len(token_bytes) + 31) // 32 * 32
    return Vocabulary(tuple(token_bytes), (EOS_ID,), size)


class MockTokenizer:
    """Canonical means here: the longest token that fits, from left to right."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._ids = {data: token for token, data in enumerate(vocabulary.token_bytes) if data}
        self._longest = max(map(len, self._ids))

    def encode_bytes(self, data: bytes) -> tuple[int, ...]:
        """The tokens of the bytes."""
        token_ids = []
        at = 0
        while at < len(data):
            for length in range(min(self._longest, len(data) - at), 0, -1):
                token = self._ids.get(data[at : at + length])
                if token is not None:
                    token_ids.append(token)
                    at += length
                    break
        return tuple(token_ids)


class MockRunner:
    """Computes plans like a model whose logits are a hash of all tokens so far.

    A slot holds the hash of the prefix that ends with its token. A step asserts that the slots it is told to read are
    one unbroken chain of hashes from its adapter on: K/V of these very tokens at these very positions.

    With `steps_ahead` it is like a device whose results come late: each step is computed in its turn.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        num_slots: int,
        max_rows: int = 256,
        max_len: int = 4096,
        steps_ahead: int = 0,
        num_machines: int = 0,
    ) -> None:
        self.vocabulary = vocabulary
        self.num_machines = num_machines
        self.steps_ahead = steps_ahead
        self.num_slots = num_slots
        self.max_len = max_len
        self.num_steps = 0
        self.num_computed = 0
        self._table = np.zeros((max_rows, max_len), np.int32)
        self._chosen: dict[int, int] = {}  # by row: what its last step chose
        self._state: dict[int, int] = {}  # by row: where its machine stands
        self._machines: list[TokenMachine | None] = [None] * num_machines
        self._token = np.zeros(num_slots, np.int64)
        self._hash = np.zeros(num_slots, np.uint64)
        self._taste = _tastes(vocabulary)
        self._tokens = np.arange(vocabulary.size, dtype=np.uint64)

    def launch(self, plan: Plan) -> Computed:
        """Compute one step; the caller looks at the result when it likes."""
        return Computed(self.run(plan))

    def run(self, plan: Plan) -> StepResult:
        """Compute one step."""
        self._check(plan)
        self.num_steps += 1
        self.num_computed += plan.num_tokens
        for write in plan.table_writes:
            self._table[write.row, write.start : write.start + len(write.slots)] = write.slots
        hashes = [self._store(segment) for segment in plan.segments]
        for shared in plan.shared_prefixes:
            rows = self._table[list(shared.rows), : shared.length]
            assert (rows == rows[0]).all(), "a shared prefix that is not shared"
        return StepResult(
            tuple([self._read(*pair) for pair in zip(plan.segments, hashes, strict=True)])
        )

    def read_kv(self, slots: Ints) -> KvArrays:
        """As `KvMemory.read_kv`: the tokens and hashes of the slots."""
        return {"token": self._token[None, slots], "hash": self._hash[None, slots]}

    def write_kv(self, slots: Ints, kv: KvArrays) -> None:
        """As `KvMemory.write_kv`."""
        self._token[slots] = kv["token"][0]
        self._hash[slots] = kv["hash"][0]

    def kv_shapes(self, num_tokens: int) -> KvShapes:
        """As `KvMemory.kv_shapes`."""
        return {"token": ("i8", (1, num_tokens)), "hash": ("u8", (1, num_tokens))}

    def logits(self, prefix_hash: np.uint64) -> npt.NDArray[np.float64]:
        """What the model thinks of every token after a prefix."""
        logits: npt.NDArray[np.float64] = _unit(mix(prefix_hash, self._tokens)) * 8.0 + self._taste
        return logits

    def _check(self, plan: Plan) -> None:
        rows = [segment.row for segment in plan.segments]
        assert len(set(rows)) == len(rows), "a row is in the plan twice"
        slots = np.concatenate([segment.slots for segment in plan.segments])
        assert len(np.unique(slots)) == len(slots), "a slot is written twice"
        assert all(segment.token_ids for segment in plan.segments), "a segment without tokens"

    def _store(self, segment: Segment) -> npt.NDArray[np.uint64]:
        """Check the K/V that the segment builds on, and write its own; returns the hash after each of its tokens."""
        start, stop = segment.start, segment.start + len(segment.token_ids)
        assert len(segment.slots) == stop - start
        before = self._table[segment.row, :start]
        chain = self._hash[before]
        first = np.array([segment.adapter], np.uint64)
        expected = mix(np.concatenate([first, chain[:-1]]), self._token[before].astype(np.uint64))
        assert (chain == expected[: len(chain)]).all(), "a slot does not hold what it should"
        last = int(chain[-1]) if start else segment.adapter
        token_ids = segment.token_ids
        if token_ids == (CHOSEN,):
            token_ids = (self._chosen[segment.row],)
        hashes = np.empty(stop - start, np.uint64)
        for index, token in enumerate(token_ids):
            last = hashes[index] = mix_one(last, token)
        self._table[segment.row, start:stop] = segment.slots
        self._token[segment.slots] = token_ids
        self._hash[segment.slots] = hashes
        return hashes

    def _read(self, segment: Segment, hashes: npt.NDArray[np.uint64]) -> SegmentResult:
        sampled, hidden = None, None
        scored: tuple[Scored, ...] = ()
        if segment.sample is not None:
            assert segment.sample.position == segment.start + len(segment.token_ids)
            sampled = self._sample(self._masked(segment.row, segment.sample), hashes[-1])
            self._chosen[segment.row] = sampled.token_id if sampled is not None else 0
            self._follow(segment.row, segment.sample)
        num_guessed = len(segment.guessed)
        guessed = tuple(
            [
                self._sample(sample, hashes[len(hashes) - 1 - num_guessed + place])
                for place, sample in enumerate(segment.guessed)
            ]
        )
        if segment.score is not None:
            score = segment.score
            assert score.first >= 0
            assert score.first + len(score.targets) <= len(hashes), "scores past the segment"
            scored = tuple(
                [
                    _scored(self.logits(hashes[score.first + index]), target, score.top)
                    for index, target in enumerate(score.targets)
                ]
            )
        if segment.pool_hidden is not None:
            states = _unit(mix(hashes[:, None], np.arange(8, dtype=np.uint64)))
            pooled = states.sum(0) if segment.pool_hidden == "mean" else states[-1]
            hidden = pooled.astype(np.float32)
        return SegmentResult(sampled, scored, hidden, guessed)

    def _masked(self, row: int, sample: Sample) -> Sample:
        """The sample with the mask of its place, if it has one."""
        place = sample.place
        if place is None:
            return sample
        if place.state is not None:
            self._machines[place.block] = place.machine
            self._state[row] = place.state
        assert self._machines[place.block] is place.machine, "another machine's block"
        return sample._replace(mask=place.machine.masks[self._state[row]])

    def _follow(self, row: int, sample: Sample) -> None:
        """Advance the row's machine over what was chosen."""
        if sample.place is not None:
            machine = sample.place.machine
            kind = machine.class_of[self._chosen[row]]
            self._state[row] = max(0, int(machine.next_state[self._state[row], kind]))

    def _sample(self, sample: Sample, prefix_hash: np.uint64) -> Scored | None:
        logits = self.logits(prefix_hash)
        adjusted = logits.copy()
        sampler = sample.sampler
        for token, bias in sampler.logit_bias:
            adjusted[token] += bias
        if sampler.has_penalties:
            adjusted[list(set(sample.generated))] -= sampler.presence_penalty
        if sample.mask is not None:
            bits = np.unpackbits(sample.mask.view(np.uint8), bitorder="little")
            adjusted[bits[: len(adjusted)] == 0] = -np.inf
        adjusted[[*sample.banned, *sampler.banned]] = -np.inf
        if sampler.temperature > 0:
            key = np.uint64(mix_one(sampler.seed, sample.position))
            noise = _unit(mix(key, self._tokens))
            adjusted = adjusted / sampler.temperature - np.log(-np.log(noise + 1e-12) + 1e-12)
        token = int(adjusted.argmax())
        if adjusted[token] == -np.inf:
            return None
        if sample.top_logprobs is None:
            return Scored(token, float("nan"))
        return _scored(logits, token, sample.top_logprobs)


class MockInbox:
    """Arrivals put in by hand."""

    def __init__(self) -> None:
        self._waiting: deque[Arrival] = deque()

    def put(self, *operations: Arrival) -> None:
        """More to do, in order."""
        self._waiting.extend(operations)

    def drain(self, block_s: float) -> Sequence[Arrival]:
        """All that wait; never blocks."""
        operations = list(self._waiting)
        self._waiting.clear()
        return operations


class MockOutbox:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[bytes, Event]] = []

    def send(self, events: Sequence[tuple[bytes, Event]]) -> None:
        """Note them."""
        self.events.extend(events)


class MockRuntime:
    """An engine over `MockRunner` that is driven step by step, on a clock that only `run` moves (1 ms a pass)."""

    def __init__(
        self,
        config: RuntimeConfig | None = None,
        num_slots: int = 4096,
        max_len: int = 4096,
        runner: Runner | None = None,
        steps_ahead: int = 0,
        num_machines: int = 0,
        store: Store | None = None,
    ) -> None:
        config = config if config is not None else RuntimeConfig()
        self.now_s = 0.0
        self.vocabulary = mock_vocabulary()
        self.tokenizer = MockTokenizer(self.vocabulary)
        if runner is None:
            runner = MockRunner(
                self.vocabulary, num_slots, config.max_rows, max_len, steps_ahead, num_machines
            )
        self.runner = runner
        self.inbox = MockInbox()
        self.outbox = MockOutbox()
        self.engine = Engine(
            config,
            self.runner,
            self.vocabulary,
            self.tokenizer,
            self.inbox,
            self.outbox,
            self.clock,
            store,
        )
        if self.engine.tier is not None:
            self.engine.tier.open(lambda reports: self.inbox.put(*reports))

    def clock(self) -> float:
        """Seconds since the start."""
        return self.now_s

    def put(self, *operations: Operation) -> None:
        """Hand operations to the engine, as the io thread would."""
        self.inbox.put(*operations)

    def step(self) -> None:
        """One turn of the engine's loop."""
        self.engine.turn(0.0)
        self.now_s += 0.001

    def run(self, max_steps: int = 100_000) -> list[tuple[bytes, Event]]:
        """Turn the loop until nothing is left to do; returns the events since the last call."""
        for _ in range(max_steps):
            self.step()
            if self.engine.idle:
                events, self.outbox.events = self.outbox.events, []
                return events
        raise AssertionError(f"not done after {max_steps} passes: a stall")


@cache
def _tastes(vocabulary: Vocabulary) -> npt.NDArray[np.float64]:
    """What the model likes by itself, for every token; the end less than most, padding never."""
    tastes = np.full(vocabulary.size, -np.inf)
    tastes[: len(vocabulary.token_bytes)] = [_taste(data) for data in vocabulary.token_bytes]
    tastes[list(vocabulary.eos_ids)] = -1.0
    return tastes


def _taste(data: bytes) -> float:
    """What the model likes by itself: letters and words before other bytes; special tokens never."""
    if not data:
        return -np.inf
    text = data.decode("utf-8", "replace")
    if text.isascii() and text.strip().isalnum():
        return 1.0
    return 0.0 if text.isascii() and text.isprintable() else -5.0


_GOLDEN, _STEP = 0x9E3779B97F4A7C15, 0x632BE59BD9B4E019
_FIRST, _SECOND, _WORD = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, (1 << 64) - 1


def mix(left: Words | np.uint64, right: Words) -> Words:
    """A hash of two numbers, for each pair of them (the finaliser of splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed: Words = left * np.uint64(_GOLDEN) + right + np.uint64(_STEP)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
        return mixed ^ (mixed >> np.uint64(31))


def mix_one(left: int, right: int) -> int:
    """`mix` of two plain numbers, which numpy does slowly."""
    mixed = (left * _GOLDEN + right + _STEP) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _WORD
    return mixed ^ (mixed >> 31)


def _unit(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1)."""
    return (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53


def _scored(logits: npt.NDArray[np.float64], token: int, num_top: int) -> Scored:
    highest = logits.max()
    logprobs = logits - highest - np.log(np.exp(logits - highest).sum())
    order = np.argsort(-logprobs, kind="stable")[:num_top].tolist()
    top = tuple([(best, float(logprobs[best])) for best in order])
    return Scored(token, float(logprobs[token]), top)
