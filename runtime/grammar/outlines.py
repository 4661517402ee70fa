"""outlines-core as a second back end behind the same interface: regexes, choices and JSON schemas.

It holds one index per constraint and knows neither recursion nor partial tokens; what it cannot do is refused.
"""

import re
from typing import Any

import numpy as np
import outlines_core
from outlines_core import json_schema

from branchwork.runtime.grammar.interface import Grammar, MaskRow, Matcher, Outlook, Vocabulary
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import Choices, Constraint, JsonSchema, Regex


class OutlinesVocabulary:
    """A vocabulary in the form that outlines-core takes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens: dict[bytes, list[int]] = {}
        for token, data in enumerate(vocabulary.token_bytes):
            if data and token not in vocabulary.eos_ids:
                tokens.setdefault(data, []).append(token)
        self.vocabulary = vocabulary
        self._inner = outlines_core.Vocabulary(vocabulary.eos_ids[0], tokens)

    def grammar(self, constraint: Constraint) -> Grammar:
        """Compile a constraint. Raises ConstraintError for what outlines-core does not take."""
        try:
            index = outlines_core.Index(_as_regex(constraint), self._inner)
        except (ValueError, RuntimeError, OverflowError) as error:
            raise ConstraintError(f"outlines-core refuses the constraint: {error}") from None
        return OutlinesGrammar(index, self.vocabulary)


def _as_regex(constraint: Constraint) -> str:
    match constraint:
        case Regex(pattern):
            return pattern
        case Choices(values):
            # The longest first: of two that begin alike, outlines-core would take the first for the whole.
            return "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
        case JsonSchema(schema):
            return str(json_schema.build_regex_from_schema(schema))
    raise ConstraintError(
        f"{type(constraint).__name__} needs --grammar-backend branchwork: outlines-core has no form of it"
    )


class OutlinesGrammar:
    """An index of outlines-core as a `Grammar`."""

    warnings: tuple[str, ...] = ()

    def __init__(self, index: Any, vocabulary: Vocabulary) -> None:
        self.index = index
        self.vocabulary = vocabulary
        transitions: dict[int, dict[int, int]] = index.get_transitions()
        self.size_bytes = sum(64 + 16 * len(row) for row in transitions.values())
        self.transitions = transitions
        self.finals: frozenset[int] = frozenset(index.get_final_states())

    def start(self) -> Matcher:
        """A matcher at the beginning."""
        return OutlinesMatcher(self, self.index.get_initial_state(), False)


class OutlinesMatcher:
    """A state of the index. Bytes that are not whole tokens are followed token by token where that is possible."""

    def __init__(self, grammar: OutlinesGrammar, state: int, ended: bool) -> None:
        self._grammar = grammar
        self._state = state
        self._ended = ended

    def place(self) -> None:
        """Unknown: the guide does not tell."""

    def copy(self) -> Matcher:
        """An independent matcher at the same place."""
        return OutlinesMatcher(self._grammar, self._state, self._ended)

    def _tokens(self) -> dict[int, int]:
        eos = self._grammar.vocabulary.eos_ids
        row = self._grammar.transitions.get(self._state, {})
        return {token: state for token, state in row.items() if token not in eos}

    def mask(self) -> MaskRow:
        """The tokens that may follow; the end-of-sequence bits say whether the text may end here."""
        vocabulary = self._grammar.vocabulary
        tokens = [] if self._ended else list(self._tokens())
        if self.can_end():
            tokens += vocabulary.eos_ids
        bits = np.zeros(32 * vocabulary.mask_words, np.uint8)
        bits[tokens] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token_id: int) -> bool:
        """Advance over a token."""
        if token_id in self._grammar.vocabulary.eos_ids:
            self._ended = self.can_end()
            return self._ended
        state = None if self._ended else self._tokens().get(token_id)
        if state is None:
            return False
        self._state = state
        return True

    def accept_bytes(self, data: bytes) -> bool:
        """Advance over bytes: by the longest tokens that fit, one after another."""
        token_bytes, start = self._grammar.vocabulary.token_bytes, self._state
        while data:
            fitting = [t for t in self._tokens() if data.startswith(token_bytes[t])]
            if not fitting or self._ended:
                self._state = start
                return False
            token = max(fitting, key=lambda t: len(token_bytes[t]))
            self._state = self._tokens()[token]
            data = data[len(token_bytes[token]) :]
        return True

    def can_end(self) -> bool:
        """Whether the text so far is a whole sentence."""
        return self._ended or self._state in self._grammar.finals

    def outlook(self) -> Outlook:
        """What may come from here, in short."""
        must_end = self._ended or (self.can_end() and not self._tokens())
        return Outlook(must_end, bool(self.forced()), len(self.closing()))

    def forced(self) -> bytes:
        """The bytes that all tokens here share, as far as one step shows."""
        if self._ended or self.can_end():
            return b""
        texts = [self._grammar.vocabulary.token_bytes[token] for token in self._tokens()]
        if not texts:
            return b""
        low, high = min(texts), max(texts)
        same = next((i for i, b in enumerate(low) if b != high[i]), len(low))
        return low[:same]

    def closing(self) -> bytes:
        """The bytes on a path of fewest tokens to a final state."""
        if self.can_end():
            return b""
        token_bytes, eos = self._grammar.vocabulary.token_bytes, self._grammar.vocabulary.eos_ids
        seen, level = {self._state}, [(self._state, b"")]
        while level:
            following: list[tuple[int, bytes]] = []
            for state, text in level:
                for token, target in self._grammar.transitions.get(state, {}).items():
                    if token in eos or target in seen:
                        continue
                    seen.add(target)
                    if target in self._grammar.finals:
                        return text + token_bytes[token]
                    following.append((target, text + token_bytes[token]))
            level = following
        raise ConstraintError("the constraint cannot be closed from here")
