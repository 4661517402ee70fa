"""The bytes of added tokens."""

import json

from tests.make_tokenizer import byte_level
from tokenizers import AddedToken

from branchwork.runtime.grammar.compile import to_rules
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.io.token_bytes import read_token_bytes
from branchwork.runtime.wire.messages import JsonValue, StructuralTags, Tag


def test_an_added_token_that_is_not_special_keeps_its_bytes_so_that_a_constraint_may_write_it() -> (
    None
):
    hf = byte_level()
    hf.add_tokens([AddedToken("<tool_call>", special=False)])
    hf.add_special_tokens([AddedToken("<|stop|>", special=True)])
    call, stop = hf.token_to_id("<tool_call>"), hf.token_to_id("<|stop|>")
    size = 1 + max(call, stop)
    table = read_token_bytes(hf, json.loads(hf.to_str()), size)
    assert table[call] == b"<tool_call>"
    assert table[stop] == b""
    vocabulary = Vocabulary(table, (stop,), size)
    tags = StructuralTags((Tag("<tool_call>", JsonValue(), "</tool_call>"),), (), only_tags=True)
    matcher = MachineGrammar(lower(to_rules(tags)), lexicon_of(vocabulary)).start()
    assert matcher.accept(call)
    assert matcher.forced() == b"{"
