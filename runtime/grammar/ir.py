"""The intermediate representation: what every front end makes, and what `lower` turns into a program.

A node stands for a set of byte strings. Nodes are immutable and may be shared; recursion goes through `Reference`.
Counted things (`Chars`, `Repeat`, `Array`, the members of an `Object`) are counted in registers when the machine
runs, so their bounds cost nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from branchwork.runtime.grammar.dfa import Dfa, of_strings


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly `data`; Literal(b"") is the empty string."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A regular set."""

    dfa: Dfa


@dataclass(frozen=True, slots=True)
class Choice:
    """A large set of strings: with `Piece` one would pay for its table (see `any_of`)."""

    strings: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Chars:
    """`low` to `high` elements of `element`, one after another (None: no bound).

    `element` must be prefix-free and without the empty string (one character, or one character or escape of a
    JSON string), so that there is one way only to count.
    """

    element: Dfa
    low: int = 0
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Bounded:
    """The strings of `dfa` that come by counted states at most `high` times (the start does not count).

    With the states at character boundaries counted: a pattern and a greatest length in one, without their product.
    `counted` has one flag for each state of `dfa`.
    """

    dfa: Dfa
    counted: tuple[bool, ...]
    high: int


@dataclass(frozen=True, slots=True)
class Concat:
    """Each part, one after another."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Alternation:
    """Any of the options; without options: nothing at all (see `NEVER`)."""

    options: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Repeat:
    """`low` to `high` bodies (None: no bound), with `separator` between neighbours."""

    body: "Node"
    low: int = 0
    high: int | None = None
    separator: "Node | None" = None


@dataclass(frozen=True, slots=True)
class Reference:
    """The rule of that name."""

    name: str


@dataclass(frozen=True, slots=True)
class Property:
    """A declared property: `key` as it is written, quotes included."""

    key: bytes
    value: "Node"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Extra:
    """Undeclared properties: any key of `key` (as written, quotes included), with a value of `value`.

    `key` must not hold a declared property's key in any spelling; two extras should not overlap.
    """

    key: Dfa
    value: "Node"


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands between the tokens of JSON: `item` and `colon` with their blanks, `pad` inside of brackets."""

    item: "Node"
    colon: "Node"
    pad: "Node"


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object: declared properties in their order, then extras; no key twice.

    `low` and `high` bound the number of properties (None: no bound). `free_order` lets declared properties and
    extras come in any order (at most `lower.MAX_FREE_ORDER` properties).
    """

    properties: tuple[Property, ...]
    extras: tuple[Extra, ...]
    layout: Layout
    low: int = 0
    high: int | None = None
    free_order: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    """A JSON array: the first items as `prefix` says (all may be left out, from the end), later ones of `rest`.

    `counted`, if given, is a second kind of item, beside `rest`, and disjoint from it; `counted_low` to
    `counted_high` of the items after the prefix are of it (`contains`; give `rest` minus `contains` and
    `rest` and `contains`). `unique`: no two items are the same JSON value (members in any order; all else is
    compared as it is written).
    """

    prefix: "tuple[Node, ...]"
    rest: "Node | None"
    layout: Layout
    low: int = 0
    high: int | None = None
    unique: bool = False
    counted: "Node | None" = None
    counted_low: int = 0
    counted_high: int | None = None


Node = (
    Literal
    | Piece
    | Choice
    | Chars
    | Bounded
    | Concat
    | Alternation
    | Repeat
    | Reference
    | Object
    | Array
)

EMPTY = Literal(b"")
NEVER = Alternation(())

# A set of strings with more bytes in all is a `Choice`: their automaton would have some 40,000 words of table.
MAX_PIECE_BYTES = 1024

FIXED = Layout(item=Literal(b", "), colon=Literal(b": "), pad=EMPTY)
"""The separators of `json.dumps`."""


def any_of(strings: Iterable[bytes]) -> Literal | Piece | Choice:
    """Any of `strings`."""
    every = frozenset(strings)
    if len(every) == 1:
        return Literal(*every)
    if sum(map(len, every)) > MAX_PIECE_BYTES:
        return Choice(every)
    return Piece(of_strings(every))


def lesser(bound: int | None, other: int) -> int:
    """The lesser of an upper bound, if there is one, and another."""
    return other if bound is None else min(bound, other)


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole grammar: where it begins, the rules that `Reference` names, and what is not enforced."""

    root: Node
    rules: Mapping[str, Node] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Renaming:
    """Puts a prefix before the names of rules; nodes that are shared stay shared."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._done: dict[int, tuple[Node, Node]] = {}

    def __call__(self, node: Node) -> Node:
        """`node` over the renamed rules."""
        known = self._done.get(id(node))
        if known is None:
            # The old node is kept too, so that its id stays its own.
            known = self._done[id(node)] = (node, self._renamed(node))
        return known[1]

    def _renamed(self, node: Node) -> Node:
        match node:
            case Reference(name):
                return Reference(self._prefix + name)
            case Concat(parts):
                return Concat(tuple(map(self, parts)))
            case Alternation(options):
                return Alternation(tuple(map(self, options)))
            case Repeat(body, low, high, separator):
                return Repeat(self(body), low, high, self(separator) if separator else None)
            case Object():
                properties = (replace(p, value=self(p.value)) for p in node.properties)
                extras = (replace(e, value=self(e.value)) for e in node.extras)
                return replace(node, properties=tuple(properties), extras=tuple(extras))
            case Array():
                return replace(
                    node,
                    prefix=tuple(map(self, node.prefix)),
                    rest=None if node.rest is None else self(node.rest),
                    counted=None if node.counted is None else self(node.counted),
                )
            case _:
                return node
