"""Factories for tests of the engine: operations in a word, and a grammar that is obviously right."""

from collections import deque
from concurrent.futures import Future
from typing import Any

import interegular
import numpy as np

from branchwork.runtime.grammar.interface import Grammar, MaskRow, Outlook, Vocabulary
from branchwork.runtime.inbox import (
    Append,
    BranchKey,
    Choose,
    CloseBranch,
    EmbedBranch,
    Generate,
    OpenBranch,
)
from branchwork.runtime.mock import MockRuntime, MockTokenizer, mock_vocabulary
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import Done, Embed, Event, Failed, Gen, Sampling, Select

CLIENT = b"client"
VOCABULARY = mock_vocabulary()


def key(branch: int, client: bytes = CLIENT) -> BranchKey:
    return BranchKey(client, branch)


def opened(branch: int, parent: int | None = None, **options: Any) -> OpenBranch:
    return OpenBranch(key(branch), None if parent is None else key(parent), **options)


def text(branch: int, words: str) -> Append:
    """The text's canonical tokens in the mock vocabulary."""
    return Append(key(branch), MockTokenizer(VOCABULARY).encode_bytes(words.encode()))


def generate(
    branch: int,
    slot: str = "answer",
    grammar: Grammar | str | None = None,
    options: dict[str, Any] | None = None,
    **sampling: Any,
) -> Generate:
    """A greedy slot of 8 tokens, unless told otherwise; a str is the regex of a naive grammar."""
    sampling = {"temperature": 0.0, "max_tokens": 8, **sampling}
    gen = Gen(branch, slot, Sampling(**sampling), **(options or {}))
    if grammar is None:
        return Generate(key(branch), gen)
    return Generate(
        key(branch), gen, ready(NaiveGrammar(grammar) if isinstance(grammar, str) else grammar)
    )


def choose(branch: int, *choices: str, slot: str = "choice", **options: Any) -> Choose:
    return Choose(key(branch), Select(branch, slot, choices, **options))


def embed(branch: int, slot: str = "embedding", **options: Any) -> EmbedBranch:
    return EmbedBranch(key(branch), Embed(branch, slot, **options))


def closed(branch: int, abort: bool = False) -> CloseBranch:
    return CloseBranch(key(branch), abort)


def ready(grammar: Grammar) -> "Future[Grammar]":
    future: Future[Grammar] = Future()
    future.set_result(grammar)
    return future


def make_runtime(
    num_slots: int = 4096,
    max_len: int = 4096,
    steps_ahead: int = 0,
    num_machines: int = 0,
    **config: Any,
) -> MockRuntime:
    return MockRuntime(RuntimeConfig(**config), num_slots, max_len, None, steps_ahead, num_machines)


def finals(events: list[tuple[bytes, Event]]) -> dict[tuple[int, str], Done | Failed]:
    """The final message of each slot; a slot with two is an error."""
    found: dict[tuple[int, str], Done | Failed] = {}
    for _, event in events:
        if isinstance(event, (Done, Failed)):
            assert (event.branch, event.slot) not in found, f"two final messages: {event}"
            found[event.branch, event.slot] = event
    return found


def done(events: list[tuple[bytes, Event]], branch: int = 1, slot: str = "answer") -> Done:
    final = finals(events)[branch, slot]
    assert isinstance(final, Done), final
    return final


def failed(events: list[tuple[bytes, Event]], branch: int = 1, slot: str = "answer") -> Failed:
    final = finals(events)[branch, slot]
    assert isinstance(final, Failed), final
    return final


def tokens_of(runtime: MockRuntime, branch: int) -> tuple[int, ...]:
    """The tokens that a branch holds."""
    found = runtime.engine.branches.find(key(branch))
    assert found is not None
    return found.tokens.ids(0, len(found.tokens))


def bytes_of(runtime: MockRuntime, token_ids: tuple[int, ...]) -> bytes:
    return b"".join([runtime.vocabulary.token_bytes[token] for token in token_ids])


class NaiveGrammar:
    """A regex as a table of byte transitions, with no cleverness at all."""

    warnings: tuple[str, ...] = ()
    size_bytes = 0

    def __init__(self, pattern: str, vocabulary: Vocabulary = VOCABULARY) -> None:
        fsm = interegular.parse_pattern(pattern).to_fsm()
        live = {state for state in fsm.states if fsm.islive(state)}
        self.pattern = pattern
        self.vocabulary = vocabulary
        self.accepting = set(fsm.finals)
        self.initial = fsm.initial
        self.masks: dict[int, MaskRow] = {}
        self.moves: dict[int, dict[int, int]] = {}
        for state in fsm.states:
            row = fsm.map.get(state, {})
            self.moves[state] = {
                value: row[fsm.alphabet[chr(value)]]
                for value in range(128)
                if row.get(fsm.alphabet[chr(value)]) in live
            }

    def start(self) -> "NaiveMatcher":
        return NaiveMatcher(self, self.initial)


class NaiveMatcher:
    """Walks the table."""

    def __init__(self, grammar: NaiveGrammar, state: int) -> None:
        self.grammar = grammar
        self.state = state

    def walk(self, data: bytes) -> int | None:
        state: int | None = self.state
        for value in data:
            state = None if state is None else self.grammar.moves[state].get(value)
        return state

    def mask(self) -> MaskRow:
        if self.state not in self.grammar.masks:
            self.grammar.masks[self.state] = self.new_mask()
        return self.grammar.masks[self.state]

    def new_mask(self) -> MaskRow:
        bits = np.zeros(self.grammar.vocabulary.mask_words * 32, np.uint8)
        for token, data in enumerate(self.grammar.vocabulary.token_bytes):
            bits[token] = bool(data) and self.walk(data) is not None
        bits[list(self.grammar.vocabulary.eos_ids)] = self.can_end()
        return np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token_id: int) -> bool:
        return self.accept_bytes(self.grammar.vocabulary.token_bytes[token_id])

    def accept_bytes(self, data: bytes) -> bool:
        state = self.walk(data)
        if state is None:
            return False
        self.state = state
        return True

    def can_end(self) -> bool:
        return self.state in self.grammar.accepting

    def outlook(self) -> Outlook:
        must_end = self.can_end() and not self.grammar.moves[self.state]
        return Outlook(must_end, bool(self.forced()), len(self.closing()) + 3)

    def forced(self) -> bytes:
        run = b""
        state = self.state
        while state not in self.grammar.accepting and len(self.grammar.moves[state]) == 1:
            ((value, state),) = self.grammar.moves[state].items()
            run += bytes([value])
        return run

    def closing(self) -> bytes:
        seen, queue = {self.state}, deque([(self.state, b"")])
        while queue:
            state, run = queue.popleft()
            if state in self.grammar.accepting:
                return run
            for value, after in self.grammar.moves[state].items():
                if after not in seen:
                    seen.add(after)
                    queue.append((after, run + bytes([value])))
        raise AssertionError("a dead state")

    def place(self) -> int:
        return self.state

    def copy(self) -> "NaiveMatcher":
        return NaiveMatcher(self.grammar, self.state)
