"""The entry: a JSON Schema text to the rules of a grammar."""

from typing import Literal

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.dfa import of_strings
from branchwork.runtime.grammar.json_schema.closure import Closure
from branchwork.runtime.grammar.json_schema.document import Document
from branchwork.runtime.grammar.json_schema.emit import Emitter
from branchwork.runtime.grammar.json_schema.reader import Mode
from branchwork.runtime.grammar.json_schema.unevaluated import TrackingReader
from branchwork.runtime.wire.errors import ConstraintError

# Blanks are bounded, so that nothing can be answered with endless white space: up to this many in a row.
MAX_BLANKS = 20


def compile_schema(
    schema: str,
    mode: Mode = "strict",
    whitespace: Literal["fixed", "any"] = "fixed",
    order: Literal["declared", "any"] = "declared",
) -> ir.Rules:
    """The JSON texts that are valid under `schema` (JSON text; draft 2020-12, drafts 4 to 7 where `$schema` says so).

    whitespace  fixed: the separators of `json.dumps`; any: up to `MAX_BLANKS` blanks wherever JSON allows them
    order       of keys; undeclared keys come after declared ones unless `any`
    mode        strict: raises ConstraintError with a JSON Pointer (`param`) for what cannot be enforced;
                best_effort: leaves it out and says so in `warnings`
    """
    try:
        document = Document(schema)
        reader = TrackingReader(document, mode)
        closure = Closure(reader.algebra, reader.term(document.root), reader.give_up)
        if closure.root not in closure.fruitful:
            raise ConstraintError("No value satisfies the schema.", "")
        layout = ir.FIXED if whitespace == "fixed" else any_layout()
        root, rules = Emitter(closure, layout, free_order=order == "any").emit()
    except RecursionError:
        raise ConstraintError("The schema is nested too deeply.", "") from None
    return ir.Rules(root, rules, tuple(reader.warnings))


def any_layout() -> ir.Layout:
    """Blanks wherever JSON allows them."""
    blank = of_strings((b" ", b"\n", b"\r", b"\t"))
    pad = ir.Chars(blank, 0, MAX_BLANKS)
    return ir.Layout(
        item=ir.Concat((pad, ir.Literal(b","), pad)),
        colon=ir.Concat((pad, ir.Literal(b":"), pad)),
        pad=pad,
    )
