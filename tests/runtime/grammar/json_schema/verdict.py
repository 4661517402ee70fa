"""The machine's verdict on a whole text, with a vocabulary of the 256 bytes."""

import functools

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar


@functools.cache
def _vocabulary() -> Vocabulary:
    return Vocabulary((*(bytes((byte,)) for byte in range(256)), b""), (256,), 257)


def machine(rules: ir.Rules) -> MachineGrammar:
    """The grammar of some rules."""
    return MachineGrammar(lower(rules), lexicon_of(_vocabulary()))


def machine_accepts(grammar: MachineGrammar, text: str) -> bool:
    """Whether `text` is a sentence of the grammar."""
    matcher = grammar.start()
    return matcher.accept_bytes(text.encode()) and matcher.can_end()
