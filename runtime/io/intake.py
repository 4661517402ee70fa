"""What the io thread makes of a client's messages: operations for the engine, and answers it can give itself.

No socket is in here. The instructions of a branch become operations in their order: texts wait until another
instruction of the branch comes, are joined, and tokenised then. A long text is tokenised on another thread; what
follows it on its branch is held back meanwhile, and nothing else.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.grammar.stops import StopTable
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
from branchwork.runtime.io.passages import Passage
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import (
    Aborted,
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

# A tokenizer takes about a millisecond for so much.
LONG_CHARACTERS = 2048

# Beside its own bytes a message takes about so much, however short it is.
OVERHEAD_BYTES = 256

_encode = msgspec.msgpack.Encoder().encode

Encoding = Callable[[], tuple[int, ...]]
Slot = Gen | Select | Embed
End = Close | Abort


class TextEncoder(Protocol):
    """Texts and chats to tokens."""

    def encode(self, texts: Sequence[Passage | Chat], at_start: bool) -> tuple[int, ...]:
        """Tokens of the joined texts; at the start of a branch, with what the model wants there.

        Chats are as the model's template writes them. Raises RequestError. Any thread may call it.
        """
        ...


class Compiler(Protocol):
    """Constraints to grammars and stop patterns to tables, elsewhere."""

    def submit(self, constraint: Constraint) -> "Future[Grammar]":
        """A future of the compiled grammar; done at once where it is cached."""
        ...

    def submit_stop(self, pattern: str) -> "Future[StopTable]":
        """A future of the compiled stop pattern; done at once where it is cached."""
        ...


@dataclass(slots=True)
class BranchState:
    """What the io thread remembers of a branch.

    `texts` wait to be tokenised. While that is done elsewhere (`encoding`, of this branch or of the one it is to be
    forked from), further instructions are `held`. What comes after `ending` is refused with it; a branch that has an
    ending and was never `opened` is unknown to the engine. `num_bytes` of the client's are its own: of its texts, which
    stay, and of `slots` that are to be filled, in their order.
    """

    texts: list[Passage | Chat] = field(default_factory=list)
    is_empty: bool = True
    encoding: Future[tuple[int, ...]] | None = None
    held: list[Instruction] | None = None
    opened: bool = True
    ending: RequestError | None = None
    num_bytes: int = 0
    slots: deque[int] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of some messages."""

    operations: list[Operation] = field(default_factory=list)
    answers: list[RuntimeMessage] = field(default_factory=list)


class Intake:
    """One client's branches.

    `late` hands an operation to the engine, from any thread. `elsewhere` runs a long encoding on another thread, and
    has `resume` called with the number of the branch, on the thread of the intake, when it is done.
    """

    def __init__(
        self,
        client: bytes,
        config: RuntimeConfig,
        limits: Limits,
        encoder: TextEncoder,
        compiler: Compiler,
        late: Callable[[Operation], None],
        elsewhere: Callable[[Encoding, int], "Future[tuple[int, ...]]"],
    ) -> None:
        self.ignored = 0
        self._open_slots = 0
        self._encodings = 0
        self._num_bytes = 0
        self._client = client
        self._max_branches = config.max_branches
        self._max_bytes = config.max_client_bytes
        self._limits = limits
        self._encoder = encoder
        self._compiler = compiler
        self._late = late
        self._elsewhere = elsewhere
        self._branches: dict[int, BranchState] = {}

    @property
    def num_branches(self) -> int:
        """Branches that are open or closing."""
        return len(self._branches)

    @property
    def is_idle(self) -> bool:
        """Whether no slot waits for its end."""
        return self._open_slots == 0 and self._encodings == 0

    def take(self, instruction: Instruction, taken: Taken) -> None:
        """Add to `taken` what comes of one instruction. Whatever is wrong with it concerns its branch alone."""
        self._take(instruction, taken, is_new=True)

    def _take(self, instruction: Instruction, taken: Taken, is_new: bool = False) -> None:
        try:
            if is_new:
                self._charge(instruction)
            if self._is_held(instruction):
                return
            check(instruction, self._limits)
            if not self._encode_elsewhere(instruction):
                self._dispatch(instruction, taken)
        except RequestError as error:
            self._fail(instruction, error, taken)
        except Exception:
            # The boundary of one request: our bug is this branch's trouble and nobody else's.
            logger.exception("%s was not taken", type(instruction).__name__)
            self._fail(instruction, InternalError("the runtime has failed on this message"), taken)

    def resume(self, branch: int, taken: Taken) -> None:
        """The encoding of a branch is done: go on with what was held."""
        self._encodings -= 1
        state = self._branches.get(branch)
        if state is None or state.encoding is None or not state.encoding.done():
            return  # it was aborted and closed meanwhile, and the number perhaps used again
        encoding, state.encoding = state.encoding, None
        if state.ending is not None:
            return
        held, state.held = state.held or [], None
        self._append(state, BranchKey(self._client, branch), encoding.result, taken)
        self._replay(held, taken)

    def sent(self, event: Done | Failed | Closed) -> None:
        """Note an event of the engine that goes to the client."""
        if isinstance(event, Closed):
            self._forget(event.branch)
            return
        self._open_slots -= 1
        state = self._branches.get(event.branch)
        if state is not None and state.slots:
            size = state.slots.popleft()
            state.num_bytes -= size
            self._num_bytes -= size

    def ask(self, size: int) -> None:
        """A question of so many bytes waits until `answered`. Raises QueueFull."""
        self._reserve(size + OVERHEAD_BYTES)

    def answered(self, size: int) -> None:
        """A question of so many bytes is answered."""
        self._num_bytes -= size + OVERHEAD_BYTES

    def leave(self) -> ClientGone:
        """The client is gone."""
        self._branches.clear()
        self._open_slots = self._num_bytes = 0
        return ClientGone(self._client)

    def _charge(self, instruction: Instruction) -> None:
        """Count what an instruction takes, until its branch is closed or its slot filled. Raises QueueFull."""
        state = self._branches.get(instruction.branch)
        if state is None or isinstance(instruction, Open | End):
            return  # refused, or counted by `max_branches`
        size = _size(instruction)
        self._reserve(size)
        state.num_bytes += size

    def _reserve(self, size: int) -> None:
        if self._num_bytes + size > self._max_bytes:
            raise QueueFull(
                f"{self._num_bytes} bytes of this client wait in the runtime, {size} more are above "
                f"{self._max_bytes} (--max-client-bytes); try again when some are answered"
            )
        self._num_bytes += size

    def _forget(self, branch: int) -> BranchState | None:
        """Let a branch go, and what was counted of it."""
        state = self._branches.pop(branch, None)
        if state is not None:
            self._num_bytes -= state.num_bytes
        return state

    def _is_held(self, instruction: Instruction) -> bool:
        """Hold the instruction if its branch, or the one it forks, waits for an encoding."""
        state = self._branches.get(instruction.branch)
        if not isinstance(instruction, Open):
            if state is None or state.held is None or isinstance(instruction, Abort):
                return False
            state.held.append(instruction)
            return True
        parent = None if instruction.parent is None else self._branches.get(instruction.parent)
        if parent is None or parent.held is None or state is not None or self._is_full():
            return False
        parent.held.append(instruction)
        self._branches[instruction.branch] = BranchState(opened=False, held=[])
        return True

    def _encode_elsewhere(self, instruction: Instruction) -> bool:
        """Have the texts before the instruction encoded on another thread, if they are long, and hold it."""
        match instruction:
            case Open(parent=int() as branch) | Gen(branch=branch) | Select(branch=branch):
                state = self._branches.get(branch)
            case Embed(branch=branch) | Text(branch=branch, token_ids=(_, *_)):
                state = self._branches.get(branch)
            case _:
                return False
        if state is None or state.ending is not None or not _are_long(state.texts):
            return False
        texts, state.texts = state.texts, []
        at_start, state.is_empty = state.is_empty, False
        state.held = []
        self._encodings += 1
        state.encoding = self._elsewhere(lambda: self._encoder.encode(texts, at_start), branch)
        return self._is_held(instruction)

    def _replay(self, held: list[Instruction], taken: Taken) -> None:
        """Take what was held. A branch that was to be forked meanwhile has held instructions of its own."""
        for instruction in held:
            if not isinstance(instruction, Open):
                self._take(instruction, taken)
                continue
            fork = self._forget(instruction.branch)
            if fork is None or fork.ending is not None:
                continue  # aborted before it was opened
            self._take(instruction, taken)
            opened = self._branches.get(instruction.branch)
            if opened is not None:  # what it held has been counted
                opened.num_bytes += fork.num_bytes
                self._num_bytes += fork.num_bytes
            self._replay(fork.held or [], taken)

    def _dispatch(self, instruction: Instruction, taken: Taken) -> None:
        if isinstance(instruction, Open):
            self._open(instruction, taken)
            return
        state = self._branches.get(instruction.branch)
        if isinstance(instruction, End):
            self._close(state, instruction, taken)
            return
        if state is None:
            raise InvalidParameter(f"branch {instruction.branch} is not open", "branch")
        if state.ending is not None:
            raise state.ending
        match instruction:
            case Text(text=text, special=special, token_ids=token_ids):
                if text:
                    state.texts.append(Passage(text, special))
                if token_ids:
                    key = BranchKey(self._client, instruction.branch)
                    self._flush(state, key, taken)
                    state.is_empty = False
                    taken.operations.append(Append(key, tuple(token_ids)))
            case Chat():
                state.texts.append(instruction)
            case Gen() | Select() | Embed():
                self._slot(state, instruction, taken)

    def _open(self, message: Open, taken: Taken) -> None:
        if message.branch in self._branches:
            raise InvalidParameter(f"branch {message.branch} is open already", "branch")
        if self._is_full():
            raise QueueFull(f"{self._max_branches} branches are open (--max-branches)")
        key = BranchKey(self._client, message.branch)
        parent_key, is_empty = None, True
        if message.parent is not None:
            parent = self._branches.get(message.parent)
            if parent is None:
                raise InvalidParameter(f"parent {message.parent} is not open", "parent")
            if parent.ending is not None:
                raise parent.ending
            parent_key = BranchKey(self._client, message.parent)
            self._flush(parent, parent_key, taken)
            is_empty = parent.is_empty
        self._branches[message.branch] = BranchState(is_empty=is_empty)
        taken.operations.append(
            OpenBranch(
                key,
                parent_key,
                message.salt,
                message.priority,
                message.program,
                message.keep,
                message.pin_s,
                self._limits.adapters.index(message.adapter) + 1 if message.adapter else 0,
            )
        )

    def _slot(self, state: BranchState, message: Slot, taken: Taken) -> None:
        key = BranchKey(self._client, message.branch)
        self._flush(state, key, taken)
        operation: Operation
        match message:
            case Gen(constraint=constraint, sampling=sampling):
                compiler = self._compiler
                grammar = None if constraint is None else compiler.submit(constraint)
                stops = tuple(map(compiler.submit_stop, sampling.stop_regex))
                operation = Generate(key, message, grammar, stops)
                self._announce(operation)
            case Select():
                operation = Choose(key, message)
            case Embed():
                operation = EmbedBranch(key, message)
        taken.operations.append(operation)
        state.is_empty = False
        state.slots.append(_size(message))
        self._open_slots += 1

    def _announce(self, operation: Generate) -> None:
        """Let the engine hear when something that the slot waits for has been compiled."""
        for future in (operation.grammar, *operation.stops):
            if future is not None and not future.done():
                future.add_done_callback(lambda _: self._late(GrammarReady(operation.key)))

    def _close(self, state: BranchState | None, message: End, taken: Taken) -> None:
        branch, is_abort = message.branch, isinstance(message, Abort)
        if state is None:
            taken.answers.append(Closed(branch))
            return
        if state.ending is not None and state.opened and not is_abort:
            self.ignored += 1  # its Closed is on the way
            return
        if state.ending is None:
            state.ending = (
                Aborted(f"branch {branch} was aborted")
                if is_abort
                else InvalidParameter(f"branch {branch} is closed", "branch")
            )
        held, state.held = state.held or [], None
        self._replay(held, taken)
        if state.opened:
            taken.operations.append(CloseBranch(BranchKey(self._client, branch), is_abort))
        else:
            self._forget(branch)
            taken.answers.append(Closed(branch))

    def _flush(self, state: BranchState, key: BranchKey, taken: Taken) -> None:
        """Tokenise the texts that wait, here and now."""
        if not state.texts:
            return
        texts, state.texts = state.texts, []
        at_start, state.is_empty = state.is_empty, False
        self._append(state, key, lambda: self._encoder.encode(texts, at_start), taken)

    def _append(self, state: BranchState, key: BranchKey, encoding: Encoding, taken: Taken) -> None:
        """Hand over the tokens; where there are none to be had, the branch fails."""
        error: RequestError
        try:
            token_ids = encoding()
        except RequestError as refusal:
            error = refusal
        except Exception:
            logger.exception("a text was not tokenised")
            error = InternalError("the runtime has failed on this text")
        else:
            if token_ids:
                taken.operations.append(Append(key, token_ids))
            return
        taken.operations.append(FailBranch(key, None, error.code, str(error), error.param))

    def _fail(self, instruction: Instruction, error: RequestError, taken: Taken) -> None:
        """Let the instruction's slot fail; one without a slot fails its branch."""
        branch = instruction.branch
        state = self._branches.get(branch)
        if isinstance(instruction, End):
            if state is not None and state.opened:  # else its memory would stay
                taken.operations.append(CloseBranch(BranchKey(self._client, branch), abort=True))
            else:
                self._forget(branch)
                taken.answers.append(Closed(branch))
            return
        slot = instruction.slot if isinstance(instruction, Slot) else None
        if state is not None and state.ending is None:
            key = BranchKey(self._client, branch)
            taken.operations.append(FailBranch(key, slot, error.code, str(error), error.param))
            if slot is not None:
                state.slots.append(0)
                self._open_slots += 1
        elif slot is not None:
            taken.answers.append(Failed(branch, slot, error.code, str(error), error.param))
        elif state is None and len(self._branches) < 2 * self._max_branches:
            self._branches[branch] = BranchState(opened=False, ending=error)
        else:
            self.ignored += 1

    def _is_full(self) -> bool:
        return len(self._branches) >= self._max_branches


def _are_long(texts: Sequence[Passage | Chat]) -> bool:
    size = 0
    for text in texts:
        if isinstance(text, Passage):
            size += len(text.text)
        else:
            size += len(text.tools) + sum(len(message.content) for message in text.messages)
    return size >= LONG_CHARACTERS


def _size(instruction: Instruction) -> int:
    """What an instruction takes, in bytes as it was sent, and a little more."""
    if isinstance(instruction, Text) and not instruction.token_ids:
        return len(instruction.text) + OVERHEAD_BYTES
    return len(_encode(instruction)) + OVERHEAD_BYTES
