"""A branch: a sequence of tokens with a queue of operations behind it."""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from branchwork.runtime.engine.buffer import IntBuffer
from branchwork.runtime.engine.radix import Namespace, Node
from branchwork.runtime.engine.request import Req
from branchwork.runtime.inbox import (
    Append,
    BranchKey,
    Choose,
    CloseBranch,
    EmbedBranch,
    FailBranch,
    Generate,
)
from branchwork.runtime.wire.messages import Done


@dataclass(frozen=True, slots=True)
class Fork:
    """In a parent's queue: here the child takes the tokens."""

    child: "Branch"


Queued = Append | Generate | Choose | EmbedBranch | FailBranch | CloseBranch | Fork


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the branch's next slots fail."""

    code: str
    message: str
    param: str | None = None


class Activity(Protocol):
    """A slot that is being filled: some requests, then an answer. Whatever it raises fails this slot alone."""

    slot: str

    def begin(self) -> list[Req]:
        """The first requests; none, if the answer is there already."""
        ...

    def ended(self, req: Req) -> list[Req]:
        """A request is done; returns those that follow from it."""
        ...

    def answer(self) -> Done:
        """The slot's end, once no request is left."""
        ...


@dataclass(eq=False, slots=True)
class Branch:
    """The state is the tokens: an idle branch holds no slots, its K/V stays in the tree as long as it can.

    `born` is False until the parent has given its tokens. `activity` is the slot being filled, by the requests
    `reqs`. `kept` is the end of the prefix that the cache was asked to keep.
    """

    key: BranchKey
    namespace: Namespace
    priority: int
    program: tuple[bytes, int]
    keep: bool
    born: bool
    tokens: IntBuffer = field(default_factory=IntBuffer)
    queue: deque[tuple[Queued, float]] = field(default_factory=deque)  # with the time of arrival
    activity: Activity | None = None
    reqs: set[Req] = field(default_factory=set)
    waits_for_grammar: bool = False
    warming: Req | None = None  # computed its prompt meanwhile
    deadline: int | None = None  # the number of the deadline that counts
    failure: Failure | None = None
    served: bool = False
    closed: bool = False
    pin_s: float = 0.0  # how long what was kept stays kept after the branch is closed
    kept: Node | None = None
