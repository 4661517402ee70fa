"""Arrays: intersection, bounds drawn in, and the opposite."""

from dataclasses import replace

from branchwork.runtime.grammar.json_schema.shape import FALSE, TRUE, Array, Some, least_of
from branchwork.runtime.grammar.json_schema.terms import Terms
from branchwork.runtime.wire.errors import ConstraintError


def meet_arrays(terms: Terms, a: Array, b: Array) -> Array | None:
    """Arrays that are both, or None where that is plainly empty."""
    longest = max(len(a.prefix), len(b.prefix))
    prefix = tuple(terms.both(a.at(i), b.at(i)) for i in range(longest))
    rest = terms.both(a.rest, b.rest)
    most = b.most if a.most is None else a.most if b.most is None else min(a.most, b.most)
    return bounded(
        Array(
            prefix,
            rest,
            max(a.least, b.least),
            most,
            tuple(dict.fromkeys(a.some + b.some)),
            a.unique or b.unique,
        )
    )


def bounded(array: Array) -> Array | None:
    """`array` with its bounds drawn in; None where it is plainly empty."""
    most, least, prefix = array.most, array.least, array.prefix
    some = []
    for part in array.some:
        if part.most is not None and part.most < part.least:
            return None
        if part.term is FALSE and part.least:
            return None
        if part.term is TRUE:
            least = max(least, part.start + part.least) if part.least else least
            most = least_of(most, None if part.most is None else part.start + part.most)
        elif part.term is not FALSE:
            some.append(part)
            least = max(least, part.start + part.least) if part.least else least
    if FALSE in prefix:
        most = least_of(most, prefix.index(FALSE))
    elif array.rest is FALSE:
        most = least_of(most, len(prefix))
    if most is not None:
        if most < least:
            return None
        prefix = prefix[:most]
    return Array(prefix, array.rest, least, most, tuple(some), array.unique and most not in (0, 1))


def negate_array(terms: Terms, array: Array) -> list[Array]:
    """Arrays that are not `array`, as a union. Raises ConstraintError for `uniqueItems`."""
    if array.unique:
        raise ConstraintError("The opposite of uniqueItems cannot be enforced.")
    cases: list[Array] = []
    for index, term in enumerate(array.prefix):
        if term is not TRUE:
            prefix = (*(TRUE,) * index, terms.negation(term))
            cases.append(Array(prefix, least=index + 1))
    if array.rest is not TRUE:
        cases.append(Array(some=(Some(terms.negation(array.rest), len(array.prefix)),)))
    for part in array.some:
        if part.least:
            cases.append(Array(some=(replace(part, least=0, most=part.least - 1),)))
        if part.most is not None:
            cases.append(Array(some=(replace(part, least=part.most + 1, most=None),)))
    if array.least:
        cases.append(Array(most=array.least - 1))
    if array.most is not None:
        cases.append(Array(least=array.most + 1))
    return [case for case in map(bounded, cases) if case is not None]
