"""One request as the scheduler sees it: tokens, some of whose K/V is still to be computed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from branchwork.runtime.engine.buffer import IntBuffer
from branchwork.runtime.engine.cache import Lease
from branchwork.runtime.engine.radix import Found, Namespace, Node
from branchwork.runtime.plan import Sample, Score, SegmentResult


class Ask(NamedTuple):
    """Which logits a segment must give: see `Segment`."""

    sample: Sample | None = None
    score: Score | None = None
    pool_hidden: Literal["mean", "last"] | None = None
    guessed: tuple[Sample, ...] = ()


@dataclass(slots=True)
class Load:
    """K/V of a prefix on its way from a store, for the requests that wait for it until `until_s` at the latest.

    `known` is how many tokens were at hand when it was asked for.
    """

    known: int
    until_s: float = 0.0
    done: bool = False


class Task(Protocol):
    """What a request is for. The scheduler brings its tokens' K/V into being; the task says what comes of it.

    A task may append to the request's tokens in `take`, and then more steps follow. Whatever a task raises
    ends this one request.
    """

    def reuse_limit(self) -> int:
        """How many leading tokens may come from the cache; the others are computed, since their logits are needed."""
        ...

    def remaining(self) -> int:
        """How many tokens may still be added, at most."""
        ...

    def ask(self, start: int, stop: int) -> Ask:
        """What is needed of the step that computes positions [start, stop)."""
        ...

    def take(self, start: int, stop: int, result: SegmentResult) -> bool:
        """Use what came out of that step; True: the request is done."""
        ...

    def runs_ahead(self) -> bool:
        """Whether the next step can be asked for before what is in flight has been taken.

        Then `ask` may get a stop one past the tokens: their last one is being chosen. What `take` finds out later (an
        end, a stop, a forced run) counts all the same: the step that ran ahead is passed over.
        """
        ...


class Req:
    """A sequence being served. Created by a slot of a branch, changed by the scheduler (and its tokens by the task).

    `computed` tokens' K/V is in the pool, and that of `launched` ones is there or being computed; the others are what
    there is to do. While it runs, it has a `row` of the slot table and a `lease` on slots. `prefill_end` is where the
    tokens ended at its admission. `guess` (room -> token ids) may be asked for tokens that could follow; `guessed` are
    those that the step being computed checks.
    """

    __slots__ = (
        "admission",
        "admitted_s",
        "arrival",
        "cached_len",
        "computed",
        "found",
        "found_generation",
        "guess",
        "guessed",
        "last_step",
        "launched",
        "lease",
        "level",
        "load",
        "namespace",
        "node",
        "prefill_end",
        "priority",
        "program",
        "row",
        "since",
        "steps",
        "task",
        "tokens",
    )

    def __init__(
        self,
        tokens: IntBuffer,
        task: Task,
        namespace: Namespace,
        priority: int = 0,
        program: object = 0,
    ) -> None:
        self.tokens = tokens
        self.task = task
        self.namespace = namespace
        self.priority = priority
        self.program = program
        self.computed = self.launched = 0
        self.row: int | None = None
        self.lease: Lease | None = None
        self.prefill_end = 0
        self.cached_len = 0  # tokens found in the cache at the first admission
        self.admitted_s: float | None = None  # when it first was let in
        self.arrival = 0  # order of submission
        self.admission = 0  # order of the last admission: the greatest is the youngest
        self.level = priority  # its priority and what its waiting counted, at the last admission
        self.since = 0  # the pass at which it began to wait
        self.last_step = 0  # the pass that last computed all there was
        self.steps = 0  # passes that computed something for it
        self.node: Node | None = (
            None  # where its tokens ended in the tree when it last left the pool
        )
        self.found: Found | None = None  # the longest cached prefix, as of `found_generation`
        self.found_generation = -1
        self.load: Load | None = None  # the last one it asked a store for
        self.guess: Callable[[int], tuple[int, ...]] | None = None
        self.guessed: tuple[int, ...] = ()

    @property
    def prefilling(self) -> bool:
        """Whether tokens that it had at its admission are still to be launched."""
        return self.launched < self.prefill_end

    @property
    def ready(self) -> int:
        """Tokens that the next step can compute: those that are known, or the one that the step in flight chooses."""
        known = self.tokens.length - self.launched
        if known > 0 or self.launched == self.computed:
            return known
        return 1 if known == 0 and self.task.remaining() > 1 else 0

    def rewind(self, length: int) -> None:
        """Take back the tokens from `length` on."""
        self.tokens.truncate(length)
        self.computed = min(self.computed, length)
        self.launched = min(self.launched, length)
