"""Which requests of a step read the very same slots, so that attention may read them once (cascade)."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from branchwork.runtime.plan import SharedPrefix
from branchwork.runtime.radix import Node
from branchwork.runtime.request import Req

# A shared part is worth its merge of partial results from about here on, per request that need not read it again.
MIN_SHARED_TOKENS = 64


def shared_prefixes(reqs: Sequence[Req]) -> tuple[SharedPrefix, ...]:
    """Groups of two or more requests with a long common prefix in the tree; a request is in one group at most.

    Each request chooses, on its path through the tree, the node that saves most reads in all:
    (requests below it - 1) x its length.
    """
    below: Counter[Node] = Counter()
    for req in reqs:
        if req.lease is not None and req.lease.shared >= MIN_SHARED_TOKENS:
            below.update(node for node in req.lease.node.path() if node.end >= MIN_SHARED_TOKENS)
    rows: defaultdict[Node, list[int]] = defaultdict(list)
    for req in reqs:
        if req.lease is None or req.row is None:
            continue
        shared = [node for node in req.lease.node.path() if below[node] > 1]
        if shared:
            best = max(shared, key=lambda node: (below[node] - 1) * node.end)
            rows[best].append(req.row)
    return tuple(
        SharedPrefix(tuple(group), node.end) for node, group in rows.items() if len(group) > 1
    )
