"""What the engine holds at this moment, for whoever looks at it: the requests in it, and the prefix tree.

Made on the engine's thread between two passes, so it is bounded: the most recently used nodes, and the first tokens of
their edges. Token ids are prompts: a reader who may not see those must not be given them.
"""

from collections.abc import Iterable
from heapq import heappop, heappush, nlargest
from itertools import chain, islice
from typing import Any

from branchwork.runtime.engine.radix import Node, RadixTree
from branchwork.runtime.engine.request import Req

# What a page can show, and what a pass can wait for: 300 nodes take about 1 ms.
MAX_NODES = 300
MAX_REQUESTS = 64
HEAD_TOKENS = 24


def report_requests(running: Iterable[Req], waiting: Iterable[Req]) -> list[dict[str, Any]]:
    """The requests, those that run first. Lengths in tokens; `steps` are passes that computed something for one."""
    return [
        {
            "number": req.arrival,
            "kind": type(req.task).__name__.lower(),
            "state": "waiting" if req.row is None else "prefill" if req.prefilling else "decode",
            "tokens": len(req.tokens),
            "computed": req.computed,
            "cached": req.cached_len,
            "prompt": req.prefill_end,
            "priority": req.priority,
            "adapter": req.namespace.adapter,
            "steps": req.steps,
        }
        for req in islice(chain(running, waiting), MAX_REQUESTS)
    ]


def report_tree(tree: RadixTree) -> dict[str, Any]:
    """The tree's most recently used nodes, each after its parent.

    `parent` is a position in the list, None under a root; `space` numbers the namespaces, whose salts are nobody's to
    see: `adapters` has each one's adapter, by number. `age` counts the uses of the tree since the node's last one.
    `hidden` children are not in the list.
    """
    nodes: list[dict[str, Any]] = []
    waiting: list[tuple[int, int, int | None, int, Node]] = []
    tickets = iter(range(1 << 62))  # equally old nodes are not compared

    def add_children(node: Node, position: int | None, space: int) -> None:
        latest = nlargest(MAX_NODES, node.children.values(), key=lambda child: child.last_used)
        for child in latest:
            heappush(waiting, (-child.last_used, next(tickets), position, space, child))

    adapters = []
    for space, (namespace, root) in enumerate(tree.roots()):
        adapters.append(namespace.adapter)
        add_children(root, None, space)
    while waiting and len(nodes) < MAX_NODES:
        _, _, position, space, node = heappop(waiting)
        add_children(node, len(nodes), space)
        nodes.append(_node(node, position, space, tree.clock))
        if position is not None:
            nodes[position]["hidden"] -= 1
    return {
        "nodes": nodes,
        "adapters": adapters,
        "tokens": tree.num_tokens,
        "unlocked": tree.num_unlocked,
    }


def _node(node: Node, parent: int | None, space: int, clock: int) -> dict[str, Any]:
    return {
        "parent": parent,
        "space": space,
        "tokens": len(node.slots),
        "end": node.end,
        "age": clock - node.last_used,
        "locks": node.locks,
        "keeps": node.keeps,
        "hidden": len(node.children),
        "head": node.token_ids[:HEAD_TOKENS].tolist(),
    }
