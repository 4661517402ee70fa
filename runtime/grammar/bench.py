"""The machine as an engine of the constrained-decoding bench (see `docs/performance.md`)."""

import json
from typing import Any

import numpy as np

from branchwork.runtime.grammar.compile import compile_constraint, prepare
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar, MachineMatcher
from branchwork.runtime.grammar.warm import warm
from branchwork.runtime.wire.messages import Constraint, JsonSchema, Regex


class Engine:
    """Compile, mask and accept, timed by the bench. `tok` has `bytes`, `special`, `eos` and `V`."""

    name = "branchwork"

    def __init__(self, tok: Any) -> None:
        special = {*tok.special, tok.eos}
        token_bytes = tuple(b"" if t in special else data for t, data in enumerate(tok.bytes))
        self.vocabulary = Vocabulary(token_bytes, (tok.eos,), tok.V)
        self.lexicon = lexicon_of(self.vocabulary)
        self.bits = np.zeros(self.vocabulary.mask_words, np.int32)
        # Once in the life of an installation, and of a process: not what a mask or a schema costs.
        warm()
        for _ in prepare():
            pass

    def compile_json(self, schema: Any) -> MachineGrammar:
        """A grammar from a schema; keys in any order, as the bench's instances have them."""
        return self._grammar(JsonSchema(json.dumps(schema), order="any"))

    def compile_compact(self, schema: Any) -> MachineGrammar:
        """A grammar from a schema as it is served by default: fixed separators, keys in their order."""
        return self._grammar(JsonSchema(json.dumps(schema)))

    def compile_regex(self, pattern: str) -> MachineGrammar:
        """A grammar from a regex."""
        return self._grammar(Regex(pattern))

    def _grammar(self, constraint: Constraint) -> MachineGrammar:
        return MachineGrammar(compile_constraint(constraint), self.lexicon)

    def start(self, grammar: MachineGrammar) -> MachineMatcher:
        """A matcher at the beginning."""
        return grammar.start()

    def mask(self, matcher: MachineMatcher) -> None:
        """Write `bits`."""
        np.copyto(self.bits, matcher.mask())

    def accept(self, matcher: MachineMatcher, token_id: int) -> bool:
        """Advance."""
        return matcher.accept(token_id)

    def ff(self, matcher: MachineMatcher) -> bytes:
        """The forced bytes."""
        return matcher.forced()
