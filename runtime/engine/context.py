"""What every slot needs while it is filled, whoever fills it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from branchwork.runtime.engine.capacity import Capacity
from branchwork.runtime.engine.healing import SortedTokens
from branchwork.runtime.engine.machines import Machines
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.grammar.stops import StopTable
from branchwork.runtime.inbox import EngineTokenizer
from branchwork.runtime.plan import Scored
from branchwork.runtime.wire.messages import Event, TokenLogprob


class StopHit(Protocol):
    """A stop found at bytes [start, end) of all that was fed; `matched` is the string or pattern."""

    @property
    def start(self) -> int:
        """Where the text is cut."""
        ...

    @property
    def end(self) -> int:
        """Where it is cut if the stop is to stay."""
        ...

    @property
    def matched(self) -> str:
        """The string or pattern."""
        ...


class StopScanner(Protocol):
    """Looks for stops in a stream of bytes."""

    @property
    def held(self) -> int:
        """How many of the last bytes a stop could still take back."""
        ...

    def feed(self, data: bytes) -> StopHit | None:
        """More bytes; returns the first stop that they complete."""
        ...


@dataclass(slots=True)
class Context:
    """Vocabulary, tokenizer, clock, limits and machines; and where events are put until the engine sends them."""

    vocabulary: Vocabulary
    tokenizer: EngineTokenizer
    capacity: Capacity
    clock: Callable[[], float]
    new_scanner: Callable[[tuple[str, ...], tuple[StopTable, ...]], StopScanner]
    events: list[tuple[bytes, Event]] = field(default_factory=list)
    num_sampled: int = 0
    num_jumped: int = 0
    num_speculated: int = 0
    speculate: int = 0  # tokens that a slot may guess ahead
    num_machines: int = 0  # constraints that the device can follow by itself at once
    machines: Machines = field(init=False)
    sorted_tokens: SortedTokens = field(init=False)

    def __post_init__(self) -> None:
        # At once: to sort 151,000 tokens takes longer than a pass may.
        self.sorted_tokens = SortedTokens(self.vocabulary)
        self.machines = Machines(self.num_machines, self.vocabulary)

    def emit(self, client: bytes, event: Event) -> None:
        """Queue an event for a client."""
        self.events.append((client, event))

    def take_events(self) -> list[tuple[bytes, Event]]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def logprob(self, scored: Scored, num_top: int) -> TokenLogprob:
        """A scored token as the client sees it, with the `num_top` most likely beside it."""
        data = self.bytes_of
        top = tuple([(token, data(token), value) for token, value in scored.top[:num_top]])
        return TokenLogprob(scored.token_id, data(scored.token_id), scored.logprob, top)

    def bytes_of(self, token_id: int) -> bytes:
        """A token's bytes; b"" for special tokens and for the ids of padding."""
        table = self.vocabulary.token_bytes
        return table[token_id] if token_id < len(table) else b""
