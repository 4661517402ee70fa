"""Which requests of a step read the very same slots, so that attention may read them once (cascade)."""

from collections.abc import Sequence

from branchwork.runtime.engine.radix import Node
from branchwork.runtime.engine.request import Req
from branchwork.runtime.plan import SharedPrefix

# A shared part is worth its merge of partial results from about here on, per request that need not read it again.
MIN_SHARED_TOKENS = 64


def shared_prefixes(reqs: Sequence[Req]) -> tuple[SharedPrefix, ...]:
    """Groups of two or more requests with a long common prefix in the tree; a request is in one group at most.

    Each request chooses, on its path through the tree, the node that saves most reads in all:
    (requests below it - 1) x its length.
    """
    paths: list[tuple[int, list[Node]]] = []
    below: dict[Node, int] = {}
    for req in reqs:
        lease, row = req.lease, req.row
        if lease is None or row is None or lease.shared < MIN_SHARED_TOKENS:
            continue
        path = [node for node in lease.node.path() if node.end >= MIN_SHARED_TOKENS]
        paths.append((row, path))
        for node in path:
            below[node] = below.get(node, 0) + 1
    groups: dict[Node, list[int]] = {}
    for row, path in paths:
        best = max(path, key=lambda node: (below[node] - 1) * node.end)
        groups.setdefault(best, []).append(row)
    return tuple(
        SharedPrefix(tuple(rows), node.end) for node, rows in groups.items() if len(rows) > 1
    )
