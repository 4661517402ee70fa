"""What the io thread makes of a client's messages: operations for the engine, and answers it can give itself.

No socket and no thread is in here. The instructions of a branch become operations in their order: texts wait until
another instruction of the branch comes, are joined, and tokenised then.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from branchwork.runtime.config import RuntimeConfig
from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.inbox import (
    Append,
    BranchKey,
    Choose,
    ClientGone,
    CloseBranch,
    EmbedBranch,
    FailBranch,
    Generate,
    GrammarReady,
    OpenBranch,
    Operation,
)
from branchwork.runtime.segments import Segment
from branchwork.runtime.wire.errors import (
    InternalError,
    InvalidParameter,
    QueueFull,
    RequestError,
)
from branchwork.runtime.wire.messages import (
    Abort,
    Chat,
    Close,
    Closed,
    Constraint,
    Done,
    Embed,
    Failed,
    Gen,
    Instruction,
    Open,
    RuntimeMessage,
    Select,
    Text,
)
from branchwork.runtime.wire.validate import Limits, check

logger = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """Texts and chats to tokens."""

    def encode(self, segments: Sequence[Segment], at_start: bool) -> tuple[int, ...]:
        """Tokens of the joined segments; at the start of a branch, with what the model wants there."""
        ...

    def render(self, chat: Chat) -> list[Segment]:
        """The chat as the model's template writes it. Raises RequestError."""
        ...


class Compiler(Protocol):
    """Constraints to grammars, elsewhere."""

    def submit(self, constraint: Constraint) -> "Future[Grammar]":
        """A future of the compiled grammar; done at once where it is cached."""
        ...


@dataclass(slots=True)
class BranchState:
    """What the io thread remembers of a branch. One with a `refusal` was never opened in the engine."""

    texts: list[Segment] = field(default_factory=list)
    is_empty: bool = True
    is_closing: bool = False
    refusal: RequestError | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of some messages."""

    operations: list[Operation] = field(default_factory=list)
    answers: list[RuntimeMessage] = field(default_factory=list)


class Intake:
    """One client's branches. `late` hands an operation to the engine from another thread, when it is due."""

    def __init__(
        self,
        client: bytes,
        config: RuntimeConfig,
        limits: Limits,
        encoder: TextEncoder,
        compiler: Compiler,
        late: Callable[[Operation], None],
    ) -> None:
        self.open_slots = 0
        self.ignored = 0
        self._client = client
        self._max_branches = config.max_branches
        self._limits = limits
        self._encoder = encoder
        self._compiler = compiler
        self._late = late
        self._branches: dict[int, BranchState] = {}

    @property
    def num_branches(self) -> int:
        """Branches that are open or closing."""
        return len(self._branches)

    def take(self, instruction: Instruction, taken: Taken) -> None:
        """Add to `taken` what comes of one instruction. Whatever is wrong with it concerns its branch alone."""
        try:
            check(instruction, self._limits)
            self._dispatch(instruction, taken)
        except RequestError as error:
            self._fail(instruction, error, taken)
        except Exception:
            # The boundary of one request: our bug is this branch's trouble and nobody else's.
            logger.exception("%s was not taken", type(instruction).__name__)
            self._fail(instruction, InternalError("the runtime has failed on this message"), taken)

    def sent(self, event: Done | Failed | Closed) -> None:
        """Note an event of the engine that goes to the client."""
        if isinstance(event, Closed):
            self._branches.pop(event.branch, None)
        else:
            self.open_slots -= 1

    def leave(self) -> ClientGone:
        """The client is gone."""
        self._branches.clear()
        self.open_slots = 0
        return ClientGone(self._client)

    def _dispatch(self, instruction: Instruction, taken: Taken) -> None:
        if isinstance(instruction, Open):
            self._open(instruction, taken)
            return
        state = self._branches.get(instruction.branch)
        if isinstance(instruction, Close | Abort):
            self._close(state, instruction, taken)
            return
        if state is None:
            raise InvalidParameter(f"branch {instruction.branch} is not open", "branch")
        if state.is_closing:
            raise InvalidParameter(f"branch {instruction.branch} is closed", "branch")
        if state.refusal is not None:
            raise state.refusal
        match instruction:
            case Text():
                self._text(state, instruction, taken)
            case Chat():
                state.texts.extend(self._encoder.render(instruction))
            case Gen() | Select() | Embed():
                self._slot(state, instruction, taken)

    def _open(self, message: Open, taken: Taken) -> None:
        if message.branch in self._branches:
            raise InvalidParameter(f"branch {message.branch} is open already", "branch")
        if len(self._branches) >= self._max_branches:
            raise QueueFull(f"{self._max_branches} branches are open (--max-branches)")
        key = BranchKey(self._client, message.branch)
        parent_key, is_empty = None, True
        if message.parent is not None:
            parent = self._branches.get(message.parent)
            if parent is None or parent.is_closing:
                raise InvalidParameter(f"parent {message.parent} is not open", "parent")
            if parent.refusal is not None:
                raise parent.refusal
            parent_key = BranchKey(self._client, message.parent)
            self._flush(parent, parent_key, taken)
            is_empty = parent.is_empty
        self._branches[message.branch] = BranchState(is_empty=is_empty)
        taken.operations.append(
            OpenBranch(
                key, parent_key, message.salt, message.priority, message.program, message.keep
            )
        )

    def _text(self, state: BranchState, message: Text, taken: Taken) -> None:
        if message.text:
            state.texts.append(Segment(message.text, message.special))
        if message.token_ids:
            key = BranchKey(self._client, message.branch)
            self._flush(state, key, taken)
            state.is_empty = False
            taken.operations.append(Append(key, tuple(message.token_ids)))

    def _slot(self, state: BranchState, message: Gen | Select | Embed, taken: Taken) -> None:
        key = BranchKey(self._client, message.branch)
        self._flush(state, key, taken)
        operation: Operation
        match message:
            case Gen(constraint=constraint):
                grammar = None if constraint is None else self._compile(key, constraint)
                operation = Generate(key, message, grammar)
            case Select():
                operation = Choose(key, message)
            case Embed():
                operation = EmbedBranch(key, message)
        taken.operations.append(operation)
        state.is_empty = False
        self.open_slots += 1

    def _compile(self, key: BranchKey, constraint: Constraint) -> "Future[Grammar]":
        future = self._compiler.submit(constraint)
        if not future.done():
            future.add_done_callback(lambda _: self._late(GrammarReady(key)))
        return future

    def _close(self, state: BranchState | None, message: Close | Abort, taken: Taken) -> None:
        if state is None or state.refusal is not None:
            self._branches.pop(message.branch, None)
            taken.answers.append(Closed(message.branch))
            return
        is_abort = isinstance(message, Abort)
        if state.is_closing and not is_abort:
            self.ignored += 1  # its Closed is on the way
            return
        state.is_closing = True
        key = BranchKey(self._client, message.branch)
        taken.operations.append(CloseBranch(key, abort=is_abort))

    def _flush(self, state: BranchState, key: BranchKey, taken: Taken) -> None:
        """Tokenise the texts that wait."""
        if not state.texts:
            return
        segments, state.texts = state.texts, []
        token_ids = self._encoder.encode(segments, state.is_empty)
        state.is_empty = False
        if token_ids:
            taken.operations.append(Append(key, token_ids))

    def _fail(self, instruction: Instruction, error: RequestError, taken: Taken) -> None:
        """Let the instruction's slot fail; one without a slot fails its branch."""
        if isinstance(instruction, Close | Abort):
            taken.answers.append(Closed(instruction.branch))
            return
        state = self._branches.get(instruction.branch)
        slot = instruction.slot if isinstance(instruction, Gen | Select | Embed) else None
        if state is None or state.refusal is not None or state.is_closing:
            if slot is not None:
                taken.answers.append(
                    Failed(instruction.branch, slot, error.code, str(error), error.param)
                )
            elif state is None and len(self._branches) < 2 * self._max_branches:
                self._branches[instruction.branch] = BranchState(refusal=error)
            else:
                self.ignored += 1
            return
        key = BranchKey(self._client, instruction.branch)
        taken.operations.append(FailBranch(key, slot, error.code, str(error), error.param))
        if slot is not None:
            self.open_slots += 1
