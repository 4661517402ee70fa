"""All branches, and what the operations do to them.

Every Generate, Choose and EmbedBranch ends in exactly one Done or Failed, every closed branch in exactly one Closed.
"""

import logging
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from branchwork.runtime.engine.branch import Activity, Branch, Failure, Fork, Queued
from branchwork.runtime.engine.context import Context
from branchwork.runtime.engine.embedding import Embedding
from branchwork.runtime.engine.generation import Generation
from branchwork.runtime.engine.pins import Pins
from branchwork.runtime.engine.radix import Namespace
from branchwork.runtime.engine.request import Req
from branchwork.runtime.engine.scheduler import Ended, Scheduler
from branchwork.runtime.engine.selection import Selection
from branchwork.runtime.engine.warming import Warming
from branchwork.runtime.inbox import (
    Append,
    BranchKey,
    Choose,
    ClientGone,
    CloseBranch,
    Control,
    EmbedBranch,
    FailBranch,
    Generate,
    GrammarReady,
    OpenBranch,
    Operation,
)
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import (
    Aborted,
    BranchFailed,
    DeadlineExceeded,
    InternalError,
    InvalidParameter,
    QueueFull,
    RequestError,
)
from branchwork.runtime.wire.messages import Closed, Done, Failed

log = logging.getLogger(__name__)

SlotOperation = Generate | Choose | EmbedBranch

# From so many deadlines on, those of slots that are done are looked for.
MANY_DEADLINES = 1024


class Branches:
    """Owns the branches: runs their queues, makes requests of their slots, and answers."""

    def __init__(
        self,
        config: RuntimeConfig,
        context: Context,
        scheduler: Scheduler,
        control: Callable[[Control], None],
    ) -> None:
        self.num_unknown = 0  # operations for branches that are not open (any more)
        self._config = config
        self._context = context
        self._scheduler = scheduler
        self._control = control
        self._clients: dict[bytes, dict[int, Branch]] = {}
        self._owner: dict[Req, Branch] = {}
        self._ready: deque[Branch] = deque()
        self._deadlines: list[tuple[float, int, BranchKey]] = []
        self._num_deadlines = 0
        self.pins = Pins(scheduler.cache, context.clock)
        self._many_deadlines = MANY_DEADLINES

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    # ------------------------------------------------------------------ in

    def handle(self, operation: Operation) -> None:
        """Take one operation, and do at once what can be done."""
        try:
            self._take(operation)
        except Exception as error:  # the boundary: only this branch fails
            self._not_taken(operation, _as_request_error(error))
        self._run_ready()

    def _take(self, operation: Operation) -> None:
        match operation:
            case OpenBranch():
                self._open(operation)
            case ClientGone(client):
                self._drop_all(client)
            case Control():
                self._control(operation)
            case CloseBranch(key, abort=True):
                self._abort(key, Aborted("the branch was aborted"))
            case GrammarReady(key):
                self._grammar_ready(key)
            case _:
                self._enqueue(operation)

    def _not_taken(self, operation: Operation, error: RequestError) -> None:
        """What an operation owes that met a bug of ours is answered, in its turn; with it, its branch has failed."""
        match operation:
            case Control(_, reply):
                if not reply.done():
                    reply.set_exception(error)
            case ClientGone(client):
                self._drop_all(client)
            case CloseBranch(key):
                self._abort(key, error)
            case GrammarReady(key):  # whoever waits for it would wait for ever
                branch = self.find(key)
                if branch is not None and branch.waits_for_grammar:
                    self._fail(branch, error, self._open_slot(branch))
                    self._ready.append(branch)
            case _:
                failure = FailBranch(operation.key, _slot_of(operation), error.code, str(error))
                branch = self.find(operation.key)
                if branch is not None and isinstance(operation, OpenBranch):
                    branch.born = True  # its parent may not know of it
                self._enqueue(failure)

    def _enqueue(self, operation: Append | SlotOperation | FailBranch | CloseBranch) -> None:
        branch = self.find(operation.key)
        if branch is None:
            self._refuse(operation)
        else:
            branch.queue.append((operation, self._context.clock()))
            self._ready.append(branch)

    def request_ended(self, ended: Ended) -> None:
        """A request of the scheduler is done, or has failed."""
        branch = self._owner.pop(ended.req, None)
        if branch is None:
            return
        branch.reqs.discard(ended.req)
        if ended.error is not None:
            self._fail(branch, ended.error, self._open_slot(branch))
        elif branch.activity is not None:
            activity = branch.activity
            try:
                self._keep(branch, ended.req)
                self._continue(branch, activity, activity.ended(ended.req))
            except Exception as error:  # the boundary: only this slot fails
                self._fail(branch, error, activity.slot)
        self._ready.append(branch)
        self._run_ready()

    def expire(self) -> None:
        """Fail the slots whose deadline has passed; end the pins whose time is over."""
        self.pins.expire()
        now = self._context.clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number, key = heappop(self._deadlines)
            branch = self.find(key)
            if branch is not None and branch.deadline == number:
                late = DeadlineExceeded("the slot's deadline has passed")
                self._fail(branch, late, self._open_slot(branch))
                self._ready.append(branch)
        self._run_ready()

    def next_deadline(self) -> float | None:
        """When `expire` has something to do next, on the context's clock."""
        return self._deadlines[0][0] if self._deadlines else None

    def fail_all(self, error: RequestError) -> None:
        """The engine ends: every open slot fails, every branch goes."""
        for branches in list(self._clients.values()):
            for branch in list(branches.values()):
                self._end_slots(branch, error)
                self._drop(branch)

    # ------------------------------------------------------------------ open and close

    def find(self, key: BranchKey) -> Branch | None:
        """The branch, if it is open."""
        return self._clients.get(key.client, {}).get(key.branch)

    def _open(self, operation: OpenBranch) -> None:
        key = operation.key
        known = self.find(key)
        if known is not None:
            failure = FailBranch(key, None, InvalidParameter.code, f"branch {key.branch} is open")
            known.queue.append((failure, self._context.clock()))
            self._ready.append(known)
            return
        branch = Branch(
            key,
            Namespace(operation.salt, operation.adapter),
            operation.priority,
            (key.client, operation.program),
            operation.keep,
            born=operation.parent is None,
            pin_s=operation.pin_s,
        )
        self._clients.setdefault(key.client, {})[key.branch] = branch
        if operation.parent is None:
            return
        parent = self.find(operation.parent)
        if parent is None or parent is branch:
            branch.born = True
            message = f"the parent branch {operation.parent.branch} is not open"
            branch.failure = Failure(BranchFailed.code, message)
        else:
            parent.queue.append((Fork(branch), self._context.clock()))
            self._ready.append(parent)

    def _fork(self, parent: Branch, child: Branch) -> None:
        """The child takes what the parent holds here, and begins to run its own queue."""
        if child.closed:
            return
        child.born = True
        if parent.failure is not None:
            child.failure = Failure(BranchFailed.code, "its parent branch has failed")
        else:
            child.tokens = parent.tokens.copy()
            child.namespace = parent.namespace
            child.served = parent.served
            if child.keep and parent.kept is not None:
                child.kept = parent.kept
                self._scheduler.cache.keep(child.kept)
        self._ready.append(child)

    def _abort(self, key: BranchKey, error: RequestError) -> None:
        """Stop now; answered by one Closed, also for a branch that has gone."""
        branch = self.find(key)
        if branch is not None:
            self._end_slots(branch, error)
            self._drop(branch)
        self._context.emit(key.client, Closed(key.branch))

    def _close(self, branch: Branch) -> None:
        """The end of a queue; what was sent after it fails."""
        self._end_slots(branch, BranchFailed(f"branch {branch.key.branch} is closed"))
        if branch.kept is not None and branch.pin_s > 0:
            self.pins.add(branch.kept, branch.pin_s)
        self._drop(branch)
        self._context.emit(branch.key.client, Closed(branch.key.branch))

    def _end_slots(self, branch: Branch, error: RequestError) -> None:
        """Every slot of the branch that is open or queued fails with `error`; forks still to come fail too."""
        if branch.activity is not None:
            self._send_failed(branch, branch.activity.slot, error)
        for operation, _ in branch.queue:
            slot = _slot_of(operation)
            if slot is not None:
                self._send_failed(branch, slot, error)
            elif isinstance(operation, Fork):
                branch.failure = Failure(BranchFailed.code, str(error))
                self._fork(branch, operation.child)
        branch.queue.clear()

    def _drop(self, branch: Branch) -> None:
        """Forget a branch without an answer; its memory is free at once."""
        self._stop(branch)
        branch.closed = True
        branch.queue.clear()
        if branch.kept is not None:
            self._scheduler.cache.unkeep(branch.kept)
            branch.kept = None
        branches = self._clients[branch.key.client]
        del branches[branch.key.branch]
        if not branches:
            del self._clients[branch.key.client]

    def _drop_all(self, client: bytes) -> None:
        for branch in list(self._clients.get(client, {}).values()):
            self._drop(branch)

    def _refuse(self, operation: Append | SlotOperation | FailBranch | CloseBranch) -> None:
        """An operation on a branch that is not open: what expects an answer gets one."""
        self.num_unknown += 1
        key = operation.key
        slot = _slot_of(operation)
        if isinstance(operation, CloseBranch):
            self._context.emit(key.client, Closed(key.branch))
        elif slot is not None:
            message = f"branch {key.branch} is not open"
            self._context.emit(key.client, Failed(key.branch, slot, BranchFailed.code, message))

    # ------------------------------------------------------------------ queues

    def _run_ready(self) -> None:
        while self._ready:
            branch = self._ready.popleft()
            while branch.queue and branch.born and branch.activity is None and not branch.closed:
                operation, arrived_s = branch.queue.popleft()
                try:
                    if isinstance(operation, Generate) and self._must_wait(
                        branch, operation, arrived_s
                    ):
                        branch.queue.appendleft((operation, arrived_s))
                        break
                    self._run(branch, operation, arrived_s)
                except Exception as error:  # the boundary: only this branch fails
                    self._not_done(branch, operation, error)

    def _not_done(self, branch: Branch, operation: Queued, error: Exception) -> None:
        """What an operation owes that has failed is answered; all later slots of the branch fail."""
        match operation:
            case CloseBranch(key):
                self._abort(key, _as_request_error(error))
            case Fork(child):
                child.born = True
                self._fail(child, error, None)
                self._ready.append(child)
            case _:
                self._fail(branch, error, _slot_of(operation))

    def _run(self, branch: Branch, operation: Queued, arrived_s: float) -> None:
        match operation:
            case Append(_, token_ids):
                # Here, and not at the slot that may follow: a branch without one could grow for ever.
                self._context.capacity.check(len(branch.tokens) + len(token_ids))
                branch.tokens.extend(token_ids)
            case Fork(child):
                self._fork(branch, child)
            case CloseBranch():
                self._close(branch)
            case FailBranch(_, slot, code, message, param):
                if branch.failure is None:
                    branch.failure = Failure(code, message, param)
                if slot is not None:
                    self._send_failure(branch, slot)
            case _:
                if branch.failure is not None:
                    self._send_failure(branch, _slot(operation))
                else:
                    self._begin(branch, operation, arrived_s)

    def _must_wait(self, branch: Branch, operation: Generate, arrived_s: float) -> bool:
        """Whether the slot's grammar or stops are being compiled (and nothing else settles the slot)."""
        if operation.is_compiled() or branch.failure is not None:
            branch.waits_for_grammar = False
            return False
        if not branch.waits_for_grammar:
            branch.waits_for_grammar = True
            if operation.gen.deadline_s is not None:
                self._set_deadline(branch, arrived_s + operation.gen.deadline_s)
            self._warm(branch)
        return True

    def _warm(self, branch: Branch) -> None:
        """Compute the prompt while its grammar is being compiled."""
        scheduler, length = self._scheduler, len(branch.tokens)
        fits = 0 < length <= self._context.capacity.max_tokens
        if (
            not fits
            or not scheduler.cache.enabled
            or len(scheduler.waiting) >= self._config.max_queue
        ):
            return  # useless, or the slot will be refused
        branch.warming = Warming(branch).req
        self._submit(branch, branch.warming)

    def _grammar_ready(self, key: BranchKey) -> None:
        branch = self.find(key)
        if branch is not None:
            self._ready.append(branch)

    # ------------------------------------------------------------------ slots

    def _begin(self, branch: Branch, operation: SlotOperation, arrived_s: float) -> None:
        """Start to fill a slot."""
        self._check_queue(branch)
        if len(branch.tokens) == 0:
            branch.tokens.append(self._first_token())
        activity = self._activity(branch, operation)
        branch.activity = activity
        deadline_s = _deadline_s(operation)
        if deadline_s is not None:
            self._set_deadline(branch, arrived_s + deadline_s)
        self._continue(branch, activity, activity.begin())

    def _activity(self, branch: Branch, operation: SlotOperation) -> Activity:
        context = self._context
        match operation:
            case Generate(_, gen, grammar, stops):
                compiled = grammar.result() if grammar is not None else None
                patterns = tuple(stop.result() for stop in stops)
                return Generation(context, branch, gen, compiled, patterns)
            case Choose(_, select):
                return Selection(context, branch, select)
            case EmbedBranch(_, embed):
                return Embedding(context, branch, embed)

    def _continue(self, branch: Branch, activity: Activity, reqs: list[Req]) -> None:
        """Submit what follows; when nothing is left to wait for, the slot is done."""
        for req in reqs:
            self._submit(branch, req)
        if not branch.reqs:
            done: Done = activity.answer()
            branch.activity = branch.deadline = branch.warming = None
            branch.served = True
            self._context.emit(branch.key.client, done)

    def _submit(self, branch: Branch, req: Req) -> None:
        branch.reqs.add(req)
        self._owner[req] = branch
        self._scheduler.submit(req)

    def _open_slot(self, branch: Branch) -> str | None:
        """The slot that is being filled, or waits for its grammar; it is to fail, so the latter leaves the queue."""
        if branch.activity is not None:
            return branch.activity.slot
        operation, _ = branch.queue.popleft()
        return _slot_of(operation)

    def _fail(self, branch: Branch, error: Exception, slot: str | None) -> None:
        """The slot fails, if one is owed an answer, and with it all later ones; what fills it is stopped."""
        self._stop(branch)
        branch.waits_for_grammar = False
        error = _as_request_error(error)
        branch.failure = Failure(error.code, str(error), error.param)
        if slot is not None:
            self._send_failure(branch, slot)

    def _stop(self, branch: Branch) -> None:
        """Take the branch's requests out of the scheduler."""
        for req in branch.reqs:
            del self._owner[req]
            self._scheduler.cancel(req)
        branch.reqs.clear()
        branch.activity = branch.deadline = None

    def _keep(self, branch: Branch, req: Req) -> None:
        """Ask the cache to keep what the branch will come back to."""
        if branch.keep and req.node is not None and req.tokens is branch.tokens:
            self._scheduler.cache.keep(req.node)
            if branch.kept is not None:
                self._scheduler.cache.unkeep(branch.kept)
            branch.kept = req.node

    def _check_queue(self, branch: Branch) -> None:
        """Raises QueueFull for a newcomer; a branch that has got answers is let go on."""
        if len(self._scheduler.waiting) >= self._config.max_queue and not branch.served:
            raise QueueFull(
                f"{self._config.max_queue} requests wait already (--max-queue); try again later"
            )

    def _first_token(self) -> int:
        """What an empty branch begins with."""
        vocabulary = self._context.vocabulary
        if vocabulary.bos_id is not None:
            return vocabulary.bos_id
        if vocabulary.eos_ids:
            return vocabulary.eos_ids[0]
        raise InvalidParameter("the branch is empty: append some text before the slot", "prompt")

    def _set_deadline(self, branch: Branch, when_s: float) -> None:
        # An entry names the branch and a number, so that a slot that is done leaves nothing big behind.
        self._num_deadlines += 1
        branch.deadline = self._num_deadlines
        heappush(self._deadlines, (when_s, self._num_deadlines, branch.key))
        if len(self._deadlines) >= self._many_deadlines:
            self._forget_deadlines()

    def _forget_deadlines(self) -> None:
        """Drop those of slots that are done: most slots are, long before theirs."""
        self._deadlines = [
            (when_s, number, key)
            for when_s, number, key in self._deadlines
            if (branch := self.find(key)) is not None and branch.deadline == number
        ]
        heapify(self._deadlines)
        self._many_deadlines = max(MANY_DEADLINES, 2 * len(self._deadlines))

    # ------------------------------------------------------------------ out

    def _send_failure(self, branch: Branch, slot: str) -> None:
        """The slot fails with the branch's failure; those after it, because of it."""
        failure = branch.failure
        assert failure is not None
        self._context.emit(
            branch.key.client,
            Failed(branch.key.branch, slot, failure.code, failure.message, failure.param),
        )
        if failure.code != BranchFailed.code:
            message = f"slot {slot!r} before it failed: {failure.message}"
            branch.failure = Failure(BranchFailed.code, message)

    def _send_failed(self, branch: Branch, slot: str, error: RequestError) -> None:
        self._context.emit(
            branch.key.client, Failed(branch.key.branch, slot, error.code, str(error), error.param)
        )


def _as_request_error(error: Exception) -> RequestError:
    """What the client is told of an error. A bug of ours goes to the log."""
    if isinstance(error, RequestError):
        return error
    log.error("a request failed: %s", type(error).__name__, exc_info=error)
    return InternalError(f"the runtime failed in this request ({type(error).__name__})")


def _slot(operation: SlotOperation) -> str:
    match operation:
        case Generate(_, gen):
            return gen.slot
        case Choose(_, select):
            return select.slot
        case EmbedBranch(_, embed):
            return embed.slot


def _slot_of(operation: Queued | OpenBranch) -> str | None:
    """The slot that an operation owes an answer to."""
    if isinstance(operation, (Generate, Choose, EmbedBranch)):
        return _slot(operation)
    return operation.slot if isinstance(operation, FailBranch) else None


def _deadline_s(operation: SlotOperation) -> float | None:
    match operation:
        case Generate(_, gen):
            return gen.deadline_s
        case Choose(_, select):
            return select.deadline_s
        case EmbedBranch():
            return None
