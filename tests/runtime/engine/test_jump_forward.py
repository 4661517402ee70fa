"""Jump-forward changes neither what can be written nor what the model chooses from, wherever it does choose.

A case is a random regex and a seed. Every mask that the model meets is compared bit by bit with brute force over an
automaton of `interegular`. And a run without jump-forward, whose model is told to write the tokens that were jumped,
must meet the same masks after the same tokens (so with the same logits), and choose the same.
"""

import itertools
import random
import re
from dataclasses import dataclass

import numpy as np
import pytest
from tests.make_engine import (
    VOCABULARY,
    NaiveGrammar,
    NaiveMatcher,
    closed,
    done,
    failed,
    finals,
    generate,
    opened,
    text,
    tokens_of,
)

from branchwork.runtime.engine.forcing import find_jump
from branchwork.runtime.engine.generation import CLOSED_EARLY
from branchwork.runtime.engine.healing import SortedTokens
from branchwork.runtime.grammar.compile import to_rules
from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.mock import MockRunner, MockRuntime, MockTokenizer, mix, mock_vocabulary
from branchwork.runtime.plan import Sample, Scored
from branchwork.runtime.wire.messages import Done, Regex, Tokens

PROMPT = "Paris is"
SEEDS = 10
WORDS = (
    '\\{"name": "', '", "age": ', "London", " the", "the", "theo", "ab", "aba", "http://", "true", "in", "ing", "Par"
)  # fmt: skip
CLASSES = ("[a-c]", "[0-9]", "[ -~]", "[thein]", "[ !#-~]")


def pattern_of(rng: random.Random, depth: int = 2) -> str:
    """A regex with words that are forced, choices between words that begin alike, and repetitions."""
    parts = []
    for _ in range(rng.randint(2, 4)):
        kind = rng.randrange(5) if depth else rng.randrange(2)
        if kind == 0:
            part = rng.choice(WORDS)
        elif kind == 1:
            part = rng.choice(CLASSES)
        elif kind == 2:
            part = f"({pattern_of(rng, depth - 1)}|{pattern_of(rng, depth - 1)})"
        else:
            inner = rng.choice((rng.choice(CLASSES), f"({rng.choice(WORDS)})"))
            part = inner + rng.choice(("?", "*", "+", "{2}", "{1,3}", "{0,8}"))
        parts.append(part)
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class Met:
    """One choice of the model: where, after which tokens, from what, and what it took (None: it was told)."""

    position: int
    prefix_hash: int
    mask: bytes
    token: int | None


@dataclass(frozen=True, slots=True)
class Ran:
    """A slot that was filled: its end, all tokens of its branch, which of them were jumped, and the choices."""

    done: Done
    token_ids: tuple[int, ...]
    jumped: tuple[int, ...]
    met: list[Met]

    @property
    def closed_early(self) -> bool:
        return CLOSED_EARLY in self.done.warnings

    def answer(self, position: int) -> bytes:
        """The bytes of the answer before a position."""
        start = len(text(0, PROMPT).token_ids)
        return b"".join([VOCABULARY.token_bytes[t] for t in self.token_ids[start:position]])

    def jumps(self) -> dict[int, int]:
        """The tokens that were jumped, by the hash of what stands before each."""
        last, found = np.uint64(0), {}
        for position, token in enumerate(self.token_ids):
            if position in self.jumped:
                found[int(last)] = token
            last = mix(last, np.uint64(token))
        return found


class WatchedRunner(MockRunner):
    """Notes the choices of each seed. After the prefixes in `told[seed]` the model writes what it is told."""

    def __init__(self) -> None:
        super().__init__(VOCABULARY, num_slots=8192)
        self.told: dict[int, dict[int, int]] = {}
        self.met: dict[int, list[Met]] = {}

    def _sample(self, sample: Sample, prefix_hash: np.uint64) -> Scored | None:
        assert sample.mask is not None
        scored, seed = super()._sample(sample, prefix_hash), sample.sampler.seed
        told = self.told.get(seed, {}).get(int(prefix_hash))
        token = scored.token_id if scored is not None and told is None else None
        met = Met(sample.position, int(prefix_hash), sample.mask.tobytes(), token)
        self.met.setdefault(seed, []).append(met)
        if told is None:
            return scored
        assert (int(sample.mask[told >> 5]) >> (told & 31)) & 1, "a jumped token was not allowed"
        return Scored(told, float("nan"))


def fill(
    grammar: Grammar, limits: dict[int, int], jump: bool, told: dict[int, dict[int, int]]
) -> dict[int, Ran]:
    """A slot for each seed, with its `max_tokens`, all in one batch of the real engine."""
    runner = WatchedRunner()
    runner.told = told
    runtime = MockRuntime(runner=runner)
    prompt = text(0, PROMPT).token_ids
    for seed, limit in limits.items():
        options = {"jump_forward": jump, "stream": True}
        sampling = {"temperature": 1.0, "seed": seed, "max_tokens": limit}
        slot = generate(seed, grammar=grammar, options=options, **sampling)
        runtime.put(opened(seed), text(seed, PROMPT), slot)
    events = runtime.run()
    jumped: dict[int, list[int]] = {seed: [] for seed in limits}
    written = dict.fromkeys(limits, len(prompt))
    for _, event in events:
        if isinstance(event, Tokens):
            for run in event.runs:
                first = written[event.branch]
                written[event.branch] += len(run.token_ids)
                if run.kind == "jumped":
                    jumped[event.branch] += range(first, written[event.branch])
    assert len(finals(events)) == len(limits)
    return {
        seed: Ran(
            done(events, seed),
            tokens_of(runtime, seed),
            tuple(jumped[seed]),
            runner.met.get(seed, []),
        )
        for seed in limits
    }


class Oracle:
    """The masks of a regex by brute force, each worked out once."""

    def __init__(self, pattern: str) -> None:
        self._grammar = NaiveGrammar(pattern, VOCABULARY)
        self._masks: dict[int, bytes] = {}

    def mask_after(self, data: bytes) -> bytes:
        """What may follow these bytes."""
        matcher = self._grammar.start()
        assert matcher.accept_bytes(data), data
        if matcher.state not in self._masks:
            self._masks[matcher.state] = NaiveMatcher.mask(matcher).tobytes()
        return self._masks[matcher.state]

    def forces(self, before: bytes, data: bytes) -> bool:
        """Whether after `before` nothing can come but `data`."""
        matcher = self._grammar.start()
        assert matcher.accept_bytes(before), before
        return matcher.forced().startswith(data)


def check_case(pattern: str, oracle: Oracle, with_jumps: Ran, told: Ran, without: Ran) -> None:
    """What was met and written with jump-forward and without it, in one case."""
    for ran in (with_jumps, told, without):
        assert re.fullmatch(pattern, ran.done.text), (pattern, ran.done.text)
        for met in ran.met:
            if met.position <= len(ran.token_ids):  # a closing may have taken the place of the last
                assert met.mask == oracle.mask_after(ran.answer(met.position)), pattern
    if with_jumps.closed_early:
        return
    assert not told.jumped
    for position in with_jumps.jumped:
        token = VOCABULARY.token_bytes[with_jumps.token_ids[position]]
        assert oracle.forces(with_jumps.answer(position), token), pattern
    assert told.token_ids == with_jumps.token_ids, pattern
    chosen = [met for met in told.met if met.token is not None]
    assert chosen == with_jumps.met, pattern


def check_pattern(pattern: str, rng: random.Random) -> int:
    """All seeds of a regex; returns how many tokens were jumped."""
    grammar = MachineGrammar(lower(to_rules(Regex(pattern))), lexicon_of(VOCABULARY))
    oracle = Oracle(pattern)
    shortest = len(grammar.start().closing())
    limits = {seed: shortest + 2 + rng.randrange(40) for seed in rng.sample(range(1, 10**6), SEEDS)}
    with_jumps = fill(grammar, limits, jump=True, told={})
    jumps = {seed: ran.jumps() for seed, ran in with_jumps.items()}
    told = fill(grammar, limits, jump=False, told=jumps)
    without = fill(grammar, limits, jump=False, told={})
    for seed in limits:
        check_case(pattern, oracle, with_jumps[seed], told[seed], without[seed])
    return sum(len(found) for found in jumps.values())


def check_many(num_patterns: int, draw: int = 0) -> None:
    rng = random.Random(num_patterns + draw)
    jumped = sum(check_pattern(pattern_of(rng), rng) for _ in range(num_patterns))
    assert jumped > num_patterns * SEEDS, "hardly anything was forced: the cases show nothing"


def test_masks_and_choices_are_the_same_with_jump_forward_and_without() -> None:
    check_many(20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("draw", range(5))
def test_masks_and_choices_are_the_same_in_ten_thousand_cases(draw: int) -> None:
    check_many(200, draw)


def test_a_jump_ends_before_whatever_a_longer_token_could_swallow() -> None:
    vocabulary = mock_vocabulary(("name", '": ', '": ["'))
    jump = find_jump(
        NaiveGrammar('name": \\[("|1)\\]', vocabulary).start(),
        MockTokenizer(vocabulary),
        SortedTokens(vocabulary),
    )
    assert jump is not None
    assert [vocabulary.token_bytes[token] for token in jump.token_ids] == [b"name"]


def test_a_long_run_is_jumped_in_pieces_and_is_whole_all_the_same() -> None:
    grammar = MachineGrammar(lower(to_rules(Regex("(Paris é){1000}"))), lexicon_of(VOCABULARY))
    ran = fill(grammar, {7: 4000}, jump=True, told={})[7]
    assert ran.done.text == "Paris é" * 1000
    assert 1 <= ran.done.usage.sampled <= 3


def test_what_cannot_be_closed_by_any_tokens_is_refused_by_its_size() -> None:
    grammar = MachineGrammar(lower(to_rules(Regex("x{60000}"))), lexicon_of(VOCABULARY))
    runtime = MockRuntime()
    runtime.put(opened(1), text(1, "a"), generate(1, grammar=grammar, max_tokens=100))
    assert "60000 bytes" in failed(runtime.run()).message


class DecidedRunner(MockRunner):
    """Takes at its n-th choice the `script[n]`-th of what the mask allows (after the script the first), and counts."""

    def __init__(self) -> None:
        super().__init__(VOCABULARY, num_slots=8192)
        self.script: list[int] = []
        self.counts: list[int] = []

    def _sample(self, sample: Sample, prefix_hash: np.uint64) -> Scored | None:
        assert sample.mask is not None
        bits = np.unpackbits(sample.mask.view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits).tolist()
        place = len(self.counts)
        self.counts.append(len(allowed))
        token = allowed[self.script[place] if place < len(self.script) else 0]
        return Scored(token, float("nan"))


def all_texts(pattern: str, jump: bool) -> set[str]:
    """Every text that some model could write: all choices, one run for each way to choose."""
    grammar = MachineGrammar(lower(to_rules(Regex(pattern))), lexicon_of(VOCABULARY))
    runner = DecidedRunner()
    runtime = MockRuntime(runner=runner)
    found, branch, waiting = set[str](), 0, [list[int]()]
    while waiting:
        branch += 1
        runner.script, runner.counts = waiting.pop(), []
        slot = generate(branch, grammar=grammar, options={"jump_forward": jump}, max_tokens=64)
        runtime.put(opened(branch), text(branch, "a"), slot, closed(branch))
        found.add(done(runtime.run(), branch).text)
        for place in range(len(runner.script), len(runner.counts)):
            taken = runner.script + [0] * (place - len(runner.script))
            waiting += [[*taken, choice] for choice in range(1, runner.counts[place])]
    return found


FINITE = {
    "(the|theo)(ab)?": {"the", "theo", "theab", "theoab"},
    "(ing|in|inn)[ab]": {"inga", "ina", "inna", "ingb", "inb", "innb"},
    "a(ab|abab)b?": {"aab", "aabb", "aabab", "aababb"},
    "(http)?://(the){1,2}": {"http://the", "http://thethe", "://the", "://thethe"},
    "(a|b){0,3}": {"".join(chars) for n in range(4) for chars in itertools.product("ab", repeat=n)},
    '\\{"name": "(ab?|Paris)"\\}': {'{"name": "a"}', '{"name": "ab"}', '{"name": "Paris"}'},
}


@pytest.mark.parametrize("pattern", FINITE)
def test_every_text_of_the_language_and_no_other_can_be_written_with_and_without(
    pattern: str,
) -> None:
    assert all_texts(pattern, jump=True) == FINITE[pattern]
    assert all_texts(pattern, jump=False) == FINITE[pattern]
