"""Have every function of the machine ready: compiled, or read from the disk where it was compiled before."""

from branchwork.runtime.grammar import dfa, ir
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.lower import lower
from branchwork.runtime.grammar.masks import LONG_TOKEN, Lexicon
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.grammar.token_machine import MachineBuilder, TokenTable


def warm() -> None:
    """Call every function of the machine once, with the types that it meets."""
    single = tuple(bytes((byte,)) for byte in range(256))
    vocabulary = Vocabulary((*single, b"a" * 2 * LONG_TOKEN), (0,), 257)
    lexicon = Lexicon(vocabulary)
    text = dfa.star(dfa.chars((0x20, 0x21), (0x23, 0x10FFFF)))
    quote, quotes = dfa.literal(b'"'), ir.Literal(b'"')
    string = ir.Piece(dfa.concat(quote, text, quote))
    limits = (2, LONG_TOKEN + 8)
    short = (ir.Concat((quotes, ir.Chars(dfa.any_char(), 0, most), quotes)) for most in limits)
    items = ir.Array((), ir.Alternation((string, *short)), ir.FIXED, unique=True)
    root = ir.Object((ir.Property(b'"a"', items),), (ir.Extra(string.dfa, string),), ir.FIXED)
    matcher = MachineGrammar(lower(ir.Rules(root)), lexicon).start()
    for part in (b'{"a": ["x', b'"', b', "', b'y"], "b', b'": "z"'):
        assert matcher.accept_bytes(part), part
        matcher.mask()
        matcher.outlook()
        matcher.forced()
        matcher.closing()
    builder = MachineBuilder(
        MachineGrammar(lower(ir.Rules(string)), lexicon), TokenTable(vocabulary)
    )
    while not builder.work():
        pass
    assert builder.machine is not None
