"""Free text, structural tags and concatenation: constraints made of constraints."""

from collections.abc import Callable, Sequence

from branchwork.runtime.grammar import dfa, ir
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import AnyOf, Concat, Constraint, FreeText, StructuralTags

Compile = Callable[[Constraint], ir.Rules]

# Between two tags that stand alone, models write a line break or nothing.
_BETWEEN_TAGS = ir.Piece(dfa.of_strings((b"", b"\n")))


def free_text(until: Sequence[str]) -> ir.Node:
    """Any text in which none of `until` occurs."""
    text = dfa.any_text()
    stops = [stop.encode() for stop in until]
    if not all(stops):
        raise ConstraintError("an empty text ends free text before it begins", "until")
    if not stops:
        return ir.Piece(text)
    return ir.Piece(text - dfa.concat(text, dfa.of_strings(stops), text))


class _Scopes:
    """Joins grammars into one: rules keep apart by a prefix for each part."""

    def __init__(self, compile_part: Compile) -> None:
        self._compile = compile_part
        self.rules: dict[str, ir.Node] = {}
        self.warnings: list[str] = []

    def part(self, constraint: "Constraint | str") -> ir.Node:
        """One part as a node over the joined rules."""
        if isinstance(constraint, str):
            return ir.Literal(constraint.encode())
        if isinstance(constraint, FreeText):
            return free_text(constraint.until)
        found = self._compile(constraint)
        prefix = f"{len(self.rules)}."
        rename = ir.Renaming(prefix)
        for name, node in found.rules.items():
            self.rules[prefix + name] = rename(node)
        self.warnings += found.warnings
        return rename(found.root)

    def joined(self, root: ir.Node) -> ir.Rules:
        """The whole grammar."""
        return ir.Rules(root, self.rules, tuple(self.warnings))


def concat_rules(constraint: Concat, compile_part: Compile) -> ir.Rules:
    """The parts one after another."""
    scopes = _Scopes(compile_part)
    return scopes.joined(ir.Concat(tuple(scopes.part(part) for part in constraint.parts)))


def any_of_rules(constraint: AnyOf, compile_part: Compile) -> ir.Rules:
    """Any of the options."""
    if not constraint.options:
        raise ConstraintError("there is nothing to choose from", "options")
    scopes = _Scopes(compile_part)
    return scopes.joined(ir.Alternation(tuple(scopes.part(part) for part in constraint.options)))


def tags_rules(constraint: StructuralTags, compile_part: Compile) -> ir.Rules:
    """Free text in which a trigger begins a tag (see `StructuralTags`)."""
    if not constraint.tags:
        raise ConstraintError("structural tags need at least one tag", "tags")
    triggers = constraint.triggers or tuple(tag.begin for tag in constraint.tags)
    scopes = _Scopes(compile_part)
    options: list[ir.Node] = []
    for index, tag in enumerate(constraint.tags):
        if not constraint.only_tags and not tag.begin.startswith(triggers):
            raise ConstraintError(
                f"the tag's begin {tag.begin[:40]!r} does not start with a trigger",
                f"tags/{index}/begin",
            )
        parts = (ir.Literal(tag.begin.encode()), scopes.part(tag.content))
        options.append(ir.Concat((*parts, ir.Literal(tag.end.encode()))))
    tag_node = ir.Alternation(tuple(options))
    low = int(constraint.at_least_one)
    high = 1 if constraint.stop_after_first else None
    if constraint.only_tags:
        return scopes.joined(ir.Repeat(tag_node, low, high, _BETWEEN_TAGS))
    free = free_text(triggers)
    if high == 1:
        first = ir.Concat((free, tag_node))
        return scopes.joined(first if low else ir.Alternation((free, first)))
    return scopes.joined(ir.Concat((free, ir.Repeat(ir.Concat((tag_node, free)), low, None))))
