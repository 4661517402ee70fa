"""Peers of the machine behind the bench's small interface; each is used only if it is installed."""

import importlib
import json
from typing import Any

import numpy as np

SEPARATORS = (", ", ": ")
"""What stands between members, and after a key, in compact texts: as `json.dumps` writes them."""


class XGrammar:
    """xgrammar in its strict mode, any white space."""

    name = "xgrammar"

    def __init__(self, tok: Any) -> None:
        # A peer, not one of our dependencies.
        self._module = xgrammar = importlib.import_module("xgrammar")
        info = xgrammar.TokenizerInfo(
            tok.bytes, xgrammar.VocabType.RAW, vocab_size=tok.V, stop_token_ids=[tok.eos]
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=True)
        self._mask = xgrammar.allocate_token_bitmask(1, tok.V)
        self.bits = self._mask.numpy()[0]

    def compile_json(self, schema: Any) -> Any:
        """A grammar from a schema."""
        return self._compiler.compile_json_schema(
            json.dumps(schema), any_whitespace=True, strict_mode=True
        )

    def compile_compact(self, schema: Any) -> Any:
        """A grammar from a schema, with the separators of `json.dumps`."""
        return self._compiler.compile_json_schema(
            json.dumps(schema), any_whitespace=False, separators=SEPARATORS, strict_mode=True
        )

    def compile_regex(self, pattern: str) -> Any:
        """A grammar from a regex."""
        return self._compiler.compile_regex(pattern)

    def start(self, grammar: Any) -> Any:
        """A matcher at the beginning."""
        return self._module.GrammarMatcher(grammar)

    def mask(self, matcher: Any) -> None:
        """Write `bits`."""
        if not matcher.fill_next_token_bitmask(self._mask):
            self._mask.fill_(-1)

    def accept(self, matcher: Any, token_id: int) -> bool:
        """Advance."""
        return bool(matcher.accept_token(token_id))

    def ff(self, matcher: Any) -> bytes:
        """The forced bytes."""
        run: str = matcher.find_jump_forward_string()
        return run.encode()


class LLGuidance:
    """llguidance with its slices for JSON."""

    name = "llguidance"

    def __init__(self, tok: Any) -> None:
        llguidance = importlib.import_module("llguidance")
        self._matcher = llguidance.LLMatcher
        plain = llguidance.LLTokenizer(tok.text, n_vocab=tok.V, eos_token=tok.eos)
        self._plain = plain
        self._json = plain.with_slices(llguidance.LLTokenizer.json_slices())
        self.bits = np.zeros((tok.V + 31) // 32, np.int32)

    def _make(self, tokenizer: Any, grammar: Any) -> Any:
        matcher = self._matcher(tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def compile_json(self, schema: Any) -> Any:
        """A grammar from a schema."""
        return self._make(self._json, self._matcher.grammar_from_json_schema(schema))

    def compile_compact(self, schema: Any) -> Any:
        """A grammar from a schema, with the separators of `json.dumps`."""
        item, key = SEPARATORS
        options = {"whitespace_flexible": False, "item_separator": item, "key_separator": key}
        grammar = self._matcher.grammar_from_json_schema(schema, overrides=options)
        return self._make(self._json, grammar)

    def compile_regex(self, pattern: str) -> Any:
        """A grammar from a regex."""
        return self._make(self._plain, self._matcher.grammar_from_regex(pattern))

    def start(self, grammar: Any) -> Any:
        """A matcher at the beginning."""
        return grammar.deep_copy()

    def mask(self, matcher: Any) -> None:
        """Write `bits`."""
        matcher.unsafe_compute_mask_ptr(self.bits.ctypes.data, self.bits.nbytes)

    def accept(self, matcher: Any, token_id: int) -> bool:
        """Advance."""
        return bool(matcher.consume_token(token_id))

    def ff(self, matcher: Any) -> bytes:
        """The forced bytes."""
        run: bytes = matcher.compute_ff_bytes()
        return run


PEERS: dict[str, Any] = {"llguidance": LLGuidance, "xgrammar": XGrammar}
