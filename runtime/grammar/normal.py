"""The normal form of deterministic automata: trim, minimal, numbered breadth first.

Automata come as arrays (see `dfa.Dfa`); row 0 of a table is the dead state. Two automata of the same language have
the same normal form, array by array.
"""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Classes = npt.NDArray[np.uint8]
Table = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Form = tuple[Classes, Table, Flags, int]
"""Classes, table, accepting and start of an automaton."""

# From so many states on the longer rounds of Hopcroft's refinement are worth being fewer states each.
MANY_STATES = 500

DEAD = 0
"""State from which nothing is accepted; row 0 of every table."""


def minimal(classes: Classes, table: Table, accepting: Flags, start: int) -> Form:
    """The normal form of any automaton."""
    distance = distances(table, accepting)
    table, start = _trim(table, distance, start)
    order = None if _has_loop(table) else in_order(successors(table), start)
    if order is not None:
        table, accepting, start = _merge_upwards(table, accepting, order, start)
    else:
        table, accepting, start = _merge_states(table, accepting, distance, start)
    return numbered(classes, table, accepting, start)


def numbered(classes: Classes, table: Table, accepting: Flags, start: int) -> Form:
    """The normal form of an automaton that is trim and minimal already (unreachable states may be left)."""
    classes, table = merge_classes(classes, table)
    num_states = len(table)
    table, accepting, start = _number(table, accepting, start)
    if start != DEAD and len(table) < num_states:  # what only those told apart that are gone
        classes, table = merge_classes(classes, table)
    return (classes if start != DEAD else np.zeros(256, np.uint8)), table, accepting, start


def successors(table: Table) -> list[list[int]]:
    """For each state where it leads, each state once, in the order of the columns."""
    return [list(dict.fromkeys(row)) for row in table.tolist()]


def predecessors(table: Table) -> list[list[int]]:
    """For each state the states that lead to it, each once; none for the dead state, which most lead to."""
    sources: list[list[int]] = [[] for _ in range(len(table))]
    for state, targets in enumerate(successors(table)):
        for target in targets:
            if target != DEAD:
                sources[target].append(state)
    return sources


def distances(table: Table, accepting: Flags) -> npt.NDArray[np.int32]:
    """[num_states] int32: bytes from each state to the nearest accepting one; -1 where there is none."""
    sources = predecessors(table)
    distance = [-1] * len(table)
    order = np.flatnonzero(accepting).tolist()
    for state in order:
        distance[state] = 0
    for state in order:
        for source in sources[state]:
            if distance[source] < 0:
                distance[source] = distance[state] + 1
                order.append(source)
    return np.array(distance, np.int32)


def fewest(table: Table, ends: Flags, counted: Flags) -> npt.NDArray[np.int64]:
    """For each state, how many counted states at least are arrived at on a way to one of `ends`; -1: there is none."""
    sources = predecessors(table)
    found = [-1] * len(table)
    nearest = deque(np.flatnonzero(ends).tolist())
    for state in nearest:
        found[state] = 0
    costs = counted.tolist()
    while nearest:
        # Arriving costs 0 or 1: those that cost nothing come first, so the queue stays sorted.
        state = nearest.popleft()
        cost = found[state] + costs[state]
        for source in sources[state]:
            if found[source] < 0 or cost < found[source]:
                found[source] = cost
                if costs[state]:
                    nearest.append(source)
                else:
                    nearest.appendleft(source)
    return np.array(found, np.int64)


def _trim(table: Table, distance: npt.NDArray[np.int32], start: int) -> tuple[Table, int]:
    """Send every edge into a state that cannot accept to `DEAD`."""
    useless = distance < 0
    if useless[1:].any():
        table = np.where(useless[table], DEAD, table).astype(np.int32)
    return table, DEAD if useless[start] else start


def _has_loop(table: Table) -> bool:
    """Whether a state leads to itself: so most languages without an end are told at once."""
    return bool((table == np.arange(len(table))[:, None])[1:].any())


def in_order(targets: Sequence[Sequence[int]], start: int) -> list[int] | None:
    """The states that can be reached, each before those that it leads to (Kahn's order); None if there is a circle."""
    if start == DEAD:
        return []
    reached = breadth_first(targets, start)[1:]
    left = [0] * len(targets)
    for state in reached:
        for target in targets[state]:
            left[target] += 1
    order = [start] if left[start] == 0 else []
    for state in order:
        for target in targets[state]:
            left[target] -= 1
            if left[target] == 0 and target != DEAD:
                order.append(target)
    return order if len(order) == len(reached) else None


def _merge_upwards(
    table: Table, accepting: Flags, order: list[int], start: int
) -> tuple[Table, Flags, int]:
    """From the leaves up, a state with the end and the edges of another is that other: linear in the table.

    As in "Incremental construction of minimal acyclic finite-state automata" (Daciuk et al., 2000).
    """
    rows, ends = table.tolist(), accepting.tolist()
    number, kept = [DEAD] * len(rows), [DEAD]
    same: dict[tuple[int, ...], int] = {}
    for state in reversed(order):
        key = (ends[state], *map(number.__getitem__, rows[state]))
        found = same.setdefault(key, len(kept))
        if found == len(kept):
            kept.append(state)
        number[state] = found
    renamed = np.array(number, np.int32)[table[kept]]
    return renamed, accepting[kept], number[start]


def _merge_states(
    table: Table, accepting: Flags, distance: npt.NDArray[np.int32], start: int
) -> tuple[Table, Flags, int]:
    """Equal states become one; they are found by refining the distances to acceptance, which equal ones share."""
    refined = _refined_by_rounds if len(table) < MANY_STATES else _refined_by_parts
    block = refined(table, distance)
    # The dead state is the only one without a distance: its block keeps number 0, as its state does.
    _, first, number = np.unique(block, return_index=True, return_inverse=True)
    order = np.arange(len(first))
    dead = number[DEAD]
    order[dead], order[0] = 0, dead
    number, first = order[number], first[order]
    return number[table[first]].astype(np.int32), accepting[first], int(number[start])


def _refined_by_rounds(table: Table, distance: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Moore's refinement: a block for each state. One that is alone in its block is not looked at again."""
    block = (distance + 1).astype(np.uint64)
    weights = _weights(table.shape[1] + 1)
    active, num_blocks, unused = np.arange(len(table)), 0, int(block.max()) + 1
    while len(active):
        signature = block[active] * weights[0]
        signature += (block[table[active]] * weights[1:]).sum(axis=1)
        _, found, sizes = np.unique(signature, return_inverse=True, return_counts=True)
        if len(sizes) == num_blocks:
            break
        block[active] = found + unused
        unused += len(sizes)
        shared = sizes > 1
        num_blocks = int(shared.sum())
        active = active[shared[found]]
    return block


def _refined_by_parts(table: Table, distance: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Hopcroft's refinement: of a block that splits the largest part keeps the name, and only states that lead to
    others are looked at again. A counted pattern splits a few states at a time, as often as it counts.
    """
    block = (distance + 1).astype(np.int64)
    weights = _weights(table.shape[1] + 1)
    lead_to = _leading_to(table)
    affected, num_names = np.arange(len(table)), int(block.max()) + 1
    while True:
        sizes = np.bincount(block, minlength=num_names)
        affected = affected[sizes[block[affected]] > 1]
        if not len(affected):
            break
        own = block[affected].astype(np.uint64)
        signature = own * weights[0]
        signature += (block[table[affected]].astype(np.uint64) * weights[1:]).sum(axis=1)
        _, first, part, count = np.unique(
            signature, return_index=True, return_inverse=True, return_counts=True
        )
        renamed = _split(block[affected[first]], count, sizes)
        names = np.full(len(first), -1, np.int64)
        names[renamed] = np.arange(num_names, num_names + len(renamed))
        num_names += len(renamed)
        moves = names[part] >= 0
        moved = affected[moves]
        block[moved] = names[part[moves]]
        affected = lead_to(moved)
    return block


def _split(home: npt.NDArray[np.int64], count: Any, sizes: Any) -> npt.NDArray[np.int64]:
    """Which parts of blocks get names of their own, by number; `home` says of which block each part is.

    Those that were not looked at keep their block's name; where all were, the largest part does.
    """
    order = np.lexsort((-count, home))
    is_largest = np.ones(len(home), np.bool_)
    is_largest[1:] = home[order[1:]] != home[order[:-1]]
    looked_at = np.bincount(home, weights=count, minlength=len(sizes))
    keeps = is_largest & (looked_at[home[order]] == sizes[home[order]])
    parts: npt.NDArray[np.int64] = order[~keeps]
    return parts


def _leading_to(table: Table) -> Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]:
    """Finds the states that lead to any of some states."""
    targets = table.ravel()
    order = np.argsort(targets, kind="stable")
    sources = order // table.shape[1]
    bounds = np.searchsorted(targets[order], np.arange(len(table) + 1))

    def find(states: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        leading = [sources[bounds[state] : bounds[state + 1]] for state in states.tolist()]
        found: npt.NDArray[np.int64] = np.unique(np.concatenate([states[:0], *leading]))
        return found

    return find


@functools.cache
def _weights(count: int) -> npt.NDArray[np.uint64]:
    # Signatures are compared by a random linear form modulo 2**64, fixed for reproducible keys.
    random = np.random.default_rng(20_240_517)
    return random.integers(1, 1 << 63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def merge_classes(classes: Classes, table: Table) -> tuple[Classes, Table]:
    """Bytes that no state tells apart share a column; columns are in the order of their first bytes."""
    number: dict[bytes, int] = {}
    columns = np.ascontiguousarray(table.T)
    kept: list[int] = []
    rename = np.full(len(columns), -1, np.int64)
    for column in classes[np.sort(np.unique(classes, return_index=True)[1])]:
        content = columns[column].tobytes()
        if content not in number:
            number[content] = len(kept)
            kept.append(int(column))
        rename[column] = number[content]
    return rename[classes].astype(np.uint8), np.ascontiguousarray(columns[kept].T)


def _number(table: Table, accepting: Flags, start: int) -> tuple[Table, Flags, int]:
    """Breadth-first numbers from the start; unreachable states go."""
    if start == DEAD:
        return np.zeros((1, 1), np.int32), np.zeros(1, np.bool_), DEAD
    order = breadth_first(successors(table), start)
    rename = np.full(len(table), -1, np.int32)
    rename[order] = np.arange(len(order))
    return rename[table[order]], accepting[order], 1


def breadth_first(targets: Sequence[Sequence[int]], start: int) -> list[int]:
    """The dead state, `start`, and all that it leads to, each after where it is first met."""
    seen = bytearray(len(targets))
    seen[DEAD] = seen[start] = True
    order = [DEAD, start]
    for state in order:
        for target in targets[state]:
            if not seen[target]:
                seen[target] = True
                order.append(target)
    return order
