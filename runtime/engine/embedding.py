"""A branch's pooled hidden state, as a request."""

import numpy as np
import numpy.typing as npt

from branchwork.runtime.engine.branch import Branch
from branchwork.runtime.engine.context import Context
from branchwork.runtime.engine.request import Ask, Req
from branchwork.runtime.plan import SegmentResult
from branchwork.runtime.wire.errors import InternalError
from branchwork.runtime.wire.messages import Done, Embed, Usage


class Embedding:
    """One `Embed` of a branch: the last layer's hidden states, summed over the tokens or of the last one."""

    def __init__(self, context: Context, branch: Branch, embed: Embed) -> None:
        self.slot = embed.slot
        self._context = context
        self._tokens = branch.tokens
        self._embed = embed
        self._sum: npt.NDArray[np.float64] | None = None
        self._begun_s = context.clock()
        self._req = Req(branch.tokens, self, branch.namespace, branch.priority, branch.program)

    def begin(self) -> list[Req]:
        """The request. Raises RequestTooLong."""
        self._context.capacity.check(len(self._tokens))
        return [self._req]

    def ended(self, req: Req) -> list[Req]:
        """The one request is done."""
        return []

    def answer(self) -> Done:
        """The hidden state, scaled to unit length."""
        assert self._sum is not None
        length = float(np.linalg.norm(self._sum))
        embedding = tuple((self._sum / (length or 1.0)).tolist())
        total_ms = 1000 * (self._context.clock() - self._begun_s)
        usage = Usage(
            prompt=len(self._tokens),
            cached=self._req.cached_len,
            steps=self._req.steps,
            total_ms=total_ms,
        )
        return Done(
            self._embed.branch, self._embed.slot, "embedded", "", usage, embedding=embedding
        )

    def reuse_limit(self) -> int:
        """The cache holds no hidden states: a mean needs every token computed, the last state only the last."""
        return 0 if self._embed.pooling == "mean" else len(self._tokens) - 1

    def remaining(self) -> int:
        """Nothing is added."""
        return 0

    def ask(self, start: int, stop: int) -> Ask:
        """The pooled states of every segment for the mean, else of the last one."""
        wanted = self._embed.pooling == "mean" or stop == len(self._tokens)
        return Ask(pool_hidden=self._embed.pooling if wanted else None)

    def runs_ahead(self) -> bool:
        """What is asked of a segment depends on no other."""
        return True

    def take(self, start: int, stop: int, result: SegmentResult) -> bool:
        """Add a segment's states up. A request that was retracted begins again at the first token."""
        if start == 0:
            self._sum = None
        if result.hidden is not None:
            hidden = result.hidden.astype(np.float64)
            self._sum = hidden if self._sum is None else self._sum + hidden
        if stop < len(self._tokens):
            return False
        if self._sum is None:
            raise InternalError("the model runner gave no hidden state")
        return True
