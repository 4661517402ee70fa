"""Computing a prompt before its slot can begin, so that its K/V is in the tree by then."""

from branchwork.runtime.engine.branch import Branch
from branchwork.runtime.engine.request import Ask, Req
from branchwork.runtime.plan import SegmentResult


class Warming:
    """A request's task that asks for nothing: what stays of it is the cached prompt."""

    def __init__(self, branch: Branch) -> None:
        # A copy: the slot may begin, and change the branch's tokens, before this is done.
        self._tokens = branch.tokens.copy()
        self.req = Req(self._tokens, self, branch.namespace, branch.priority, branch.program)

    def reuse_limit(self) -> int:
        """All but the last token, so that there is something to compute."""
        return len(self._tokens) - 1

    def remaining(self) -> int:
        """Nothing is added."""
        return 0

    def ask(self, start: int, stop: int) -> Ask:
        """No logits are needed."""
        return Ask()

    def runs_ahead(self) -> bool:
        """What is asked of a segment depends on no other."""
        return True

    def take(self, start: int, stop: int, result: SegmentResult) -> bool:
        """Done with the last token."""
        return stop == len(self._tokens)
