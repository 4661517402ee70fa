"""Places with equal views have equal masks, whatever the text before them was."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.grammar.test_json_nodes import arrays, objects
from tests.runtime.grammar.vocabularies import EOS, allowed, json_pieces

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.machine import views
from branchwork.runtime.grammar.masks import lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.wire.errors import ConstraintError

JSON = json_pieces()


@settings(max_examples=60)
@given(st.one_of(objects(), arrays()), st.integers(0, 1_000_000))
def test_equal_views_have_equal_masks(node: ir.Node, seed: int) -> None:
    lexicon = lexicon_of(JSON)
    nested = ir.Array((), ir.Alternation((node, ir.Literal(b"0"))), ir.FIXED)
    try:
        program = lower(ir.Rules(nested))
    except ConstraintError:
        return
    grammar, pick = MachineGrammar(program, lexicon), random.Random(seed)
    masks: dict[bytes, bytes] = {}
    for _ in range(6):
        matcher = grammar.start()
        for _ in range(25):
            spot, text, pos = matcher._spot, matcher._room(0), matcher._pos
            if spot.is_textual:
                length = views.view(program.code, text, spot.state, pos, lexicon.work.view)
                key = lexicon.work.view[:length].tobytes()
                look = lexicon.look(program, spot.state, text, pos)
                if not look.text_read:
                    assert masks.setdefault(key, look.row.tobytes()) == look.row.tobytes()
            tokens = sorted(allowed(matcher, JSON) - {EOS})
            if not tokens:
                break
            assert matcher.accept(pick.choice(tokens))
