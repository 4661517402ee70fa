"""What a lease does with the prefix tree, in a word each."""

from branchwork.runtime.engine.buffer import Ints
from branchwork.runtime.engine.radix import Namespace, Node, RadixTree


def match(tree: RadixTree, space: Namespace, tokens: Ints) -> Node:
    """The end of the longest cached prefix, locked."""
    return tree.hold(space, tree.find(space, tokens))


def insert(
    tree: RadixTree, space: Namespace, tokens: Ints, slots: Ints, held: int = 0
) -> tuple[Node, int]:
    """Cache tokens, by one who holds what is cached of the first `held` and then lets go; as `RadixTree.extend`."""
    node = match(tree, space, tokens[:held])
    start = node.end
    end, known = tree.extend(node, tokens[start:], slots[start:])
    tree.unlock(end)
    return end, start + known
