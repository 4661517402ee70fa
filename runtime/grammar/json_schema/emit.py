"""From shapes to the machine's intermediate representation."""

import functools

from branchwork.runtime.grammar import ir
from branchwork.runtime.grammar.dfa import Dfa, of_strings
from branchwork.runtime.grammar.json_schema.closure import Closure
from branchwork.runtime.grammar.json_schema.language import Language, both, complement
from branchwork.runtime.grammar.json_schema.numerals import numeral_dfa
from branchwork.runtime.grammar.json_schema.quoting import quote
from branchwork.runtime.grammar.json_schema.shape import FALSE, Array, Number, Object, Term
from branchwork.runtime.grammar.json_schema.strings import is_empty, quoted_dfa, string_node


class Emitter:
    """Writes the terms of a closure as nodes; what holds objects or arrays becomes a rule of its own.

    A *canonical* node writes each number in one way only (without needless zeros), so that items of a `uniqueItems`
    array are equal where they are written alike; but for the order of members, which is not looked at.
    """

    def __init__(self, closure: Closure, layout: ir.Layout, free_order: bool) -> None:
        self._closure = closure
        self._layout = layout
        self._free_order = free_order
        self._names: dict[tuple[Term, bool], str] = {}
        self._rules: dict[str, ir.Node] = {}
        self._waiting: list[tuple[Term, bool]] = []

    def emit(self) -> tuple[ir.Node, dict[str, ir.Node]]:
        """The node for the root and the rules it refers to."""
        root = self._node(self._closure.root, canonical=False)
        while self._waiting:
            term, canonical = self._waiting.pop()
            self._rules[self._names[term, canonical]] = self._alternatives(term, canonical)
        return root, self._rules

    def _node(self, term: Term, canonical: bool) -> ir.Node:
        """The node for a term: inline if it is flat, else a reference to its rule."""
        if term not in self._closure.fruitful:
            return ir.NEVER
        shape = self._closure.shapes[term]
        if not shape.objects and not shape.arrays:
            return self._alternatives(term, canonical)
        name = self._names.get((term, canonical))
        if name is None:
            name = self._names[term, canonical] = f"r{len(self._names)}"
            self._waiting.append((term, canonical))
        return ir.Reference(name)

    def _alternatives(self, term: Term, canonical: bool) -> ir.Node:
        shape = self._closure.shapes[term]
        options: list[ir.Node] = list(
            _flat(shape.null, shape.true, shape.false, shape.numbers, shape.strings, canonical)
        )
        for item in shape.objects:
            if self._closure.object_has_value(item):
                options.append(self._object(item, canonical))
        for array in shape.arrays:
            if self._closure.array_has_value(array):
                options.append(self._array(array, canonical))
        return options[0] if len(options) == 1 else ir.Alternation(tuple(options))

    def _object(self, item: Object, canonical: bool) -> ir.Object:
        extras = []
        outside = [complement(keys) for keys, _ in item.cells]
        for keys, inner in (*item.cells, (both(*outside), item.rest)):
            if inner in self._closure.fruitful and not is_empty(keys):
                extras.append(ir.Extra(quoted_dfa(keys), self._node(inner, canonical)))
        properties = []
        for name, found in item.properties.items():
            fruitful = found.term in self._closure.fruitful
            if fruitful or extras:  # a forbidden key must not come by as an extra
                properties.append(
                    ir.Property(quote(name), self._node(found.term, canonical), found.required)
                )
        return ir.Object(
            tuple(properties),
            tuple(extras),
            self._layout,
            item.least,
            item.most,
            self._free_order,
        )

    def _array(self, array: Array, canonical: bool) -> ir.Array:
        canonical = canonical or array.unique
        prefix: list[ir.Node] = []
        for inner in array.prefix:
            if inner not in self._closure.fruitful:
                return ir.Array(
                    tuple(prefix), None, self._layout, array.least, len(prefix), array.unique
                )
            prefix.append(self._node(inner, canonical))
        if not array.some:
            return ir.Array(
                tuple(prefix),
                self._rest(array.rest, canonical),
                self._layout,
                array.least,
                array.most,
                array.unique,
            )
        some = array.some[0]
        return ir.Array(
            tuple(prefix),
            self._rest(self._closure.uncounted(array), canonical),
            self._layout,
            array.least,
            array.most,
            array.unique,
            self._rest(self._closure.counted(array), canonical),
            some.least,
            some.most,
        )

    def _rest(self, term: Term, canonical: bool) -> ir.Node | None:
        return (
            self._node(term, canonical)
            if term is not FALSE and term in self._closure.fruitful
            else None
        )


@functools.lru_cache(maxsize=2048)
def _flat(
    null: bool,
    true: bool,
    false: bool,
    numbers: tuple[Number, ...],
    strings: Language,
    canonical: bool,
) -> tuple[ir.Node, ...]:
    """The options without objects and arrays: what is regular as one piece, and strings that are counted."""
    words = [word for word, there in ((b"null", null), (b"true", true), (b"false", false)) if there]
    pieces = [numeral_dfa(number, canonical) for number in numbers]
    node = ir.NEVER if is_empty(strings) else string_node(strings)
    if isinstance(node, ir.Literal):
        words.append(node.data)
    elif isinstance(node, ir.Piece):
        pieces.append(node.dfa)
    if words:
        pieces.append(of_strings(words))
    pieces = [piece for piece in pieces if not piece.is_empty]
    if len(words) == len(pieces) == 1:
        regular: list[ir.Node] = [ir.Literal(words[0])]
    elif pieces:
        regular = [ir.Piece(functools.reduce(Dfa.__or__, pieces))]
    else:
        regular = []
    return (*regular, *([node] if isinstance(node, ir.Concat | ir.Choice) else []))
