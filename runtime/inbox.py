"""What the io thread hands to the engine thread, and what it gets back.

The io thread has done all that needs no model: messages are decoded and validated, texts are joined and tokenised,
chats are rendered, grammars are being compiled. What is left are operations on branches in tokens.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.grammar.stops import StopTable
from branchwork.runtime.kv import StoreReport
from branchwork.runtime.wire.messages import Embed, Event, Gen, Select


class BranchKey(NamedTuple):
    """A branch in the runtime: the client's identity on the socket (made by the runtime) and the client's own id."""

    client: bytes
    branch: int


@dataclass(frozen=True, slots=True)
class OpenBranch:
    """A new branch; with a parent, it takes the parent's tokens once the parent's earlier operations are done.

    A fork takes its parent's salt and adapter, too. `adapter` is its number (`Segment.adapter`).
    """

    key: BranchKey
    parent: BranchKey | None = None
    salt: str = ""
    priority: int = 0
    program: int = 0
    keep: bool = True
    pin_s: float = 0.0
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class Append:
    """Tokens to add."""

    key: BranchKey
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Generate:
    """A slot to fill. `grammar` and `stops` may still be compiling; a `GrammarReady` follows for each that is.

    `stops` are the slot's stop patterns (`Sampling.stop_regex`), in their order.
    """

    key: BranchKey
    gen: Gen
    grammar: "Future[Grammar] | None" = None
    stops: "tuple[Future[StopTable], ...]" = ()

    def is_compiled(self) -> bool:
        """Whether nothing is being compiled any more."""
        return (self.grammar is None or self.grammar.done()) and all(s.done() for s in self.stops)


@dataclass(frozen=True, slots=True)
class GrammarReady:
    """A grammar or stop pattern that this branch waits for is compiled, or has failed."""

    key: BranchKey


@dataclass(frozen=True, slots=True)
class Choose:
    """A select; the engine tokenises the choices, since a choice may heal the branch's last token."""

    key: BranchKey
    select: Select


@dataclass(frozen=True, slots=True)
class EmbedBranch:
    """The branch's pooled hidden state."""

    key: BranchKey
    embed: Embed


@dataclass(frozen=True, slots=True)
class FailBranch:
    """What the io thread could not take (a bad instruction): the named slot fails with it, and all later ones.

    `slot` None: the instruction had none; the next slot of the branch fails with it.
    """

    key: BranchKey
    slot: str | None
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class CloseBranch:
    """Nothing more will follow; `abort` means: stop what runs."""

    key: BranchKey
    abort: bool = False


@dataclass(frozen=True, slots=True)
class ClientGone:
    """All branches of a client go, without answers."""

    client: bytes


@dataclass(frozen=True, slots=True)
class Control:
    """ "stats", "inspect", "flush_cache" or "save_cache": `reply` gets JSON text.

    `salt`: flush the prefixes of this salt only; None: all.
    """

    what: str
    reply: "Future[str]"
    salt: str | None = None


Operation = (
    OpenBranch
    | Append
    | Generate
    | GrammarReady
    | Choose
    | EmbedBranch
    | FailBranch
    | CloseBranch
    | ClientGone
    | Control
)

Arrival = Operation | StoreReport
"""What comes to the engine: from the io thread, and from the store below its pool."""


class Inbox(Protocol):
    """The engine's end of the queue from the io thread."""

    def drain(self, block_s: float) -> Sequence[Arrival]:
        """All that waits, in order; with none, wait up to `block_s` seconds (0: do not wait) for one."""
        ...


class Outbox(Protocol):
    """The engine's end of the queue to the io thread."""

    def send(self, events: Sequence[tuple[bytes, Event]]) -> None:
        """Hand over (client, event) pairs; never blocks."""
        ...


class EngineTokenizer(Protocol):
    """The little the engine needs of the tokenizer: forced bytes become tokens between two steps."""

    def encode_bytes(self, data: bytes) -> tuple[int, ...]:
        """Canonical tokens of the bytes (no special tokens are read); bytes that are no UTF-8 become byte-level tokens.

        The tokens' bytes, joined, are `data` exactly. Cached.
        """
        ...
