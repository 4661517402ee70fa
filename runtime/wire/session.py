"""What a client knows of its connection, without the socket: frames in, listeners called; nothing here waits."""

import itertools
import logging
import threading
from collections.abc import Callable, Sequence

import msgspec

from branchwork.runtime.wire.backend import Listener
from branchwork.runtime.wire.errors import (
    BranchworkError,
    InvalidParameter,
    VersionMismatch,
    error_from,
)
from branchwork.runtime.wire.messages import (
    PROTOCOL_VERSION,
    BranchId,
    ClientMessage,
    Closed,
    Heartbeat,
    Refused,
    Reply,
    RuntimeMessage,
    SlotEvent,
    Welcome,
)

logger = logging.getLogger(__name__)

ReplyListener = Callable[[Reply | BranchworkError], None]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[RuntimeMessage]).decode


def encode(messages: Sequence[ClientMessage]) -> bytes:
    """One frame of messages. Raises InvalidParameter for a text that is not Unicode (a lone surrogate)."""
    try:
        return _encode(messages)
    except UnicodeEncodeError as error:
        raise InvalidParameter(
            f"a text holds a lone surrogate at character {error.start}", "text"
        ) from error
    except OverflowError as error:
        raise InvalidParameter("a number does not fit in 64 bits") from error


class Session:
    """The listeners of one connection. `error` is set once, when nothing more will come; then all have been told."""

    def __init__(self) -> None:
        self.welcome: Welcome | None = None
        self.error: BranchworkError | None = None
        self.steps = 0
        self._listeners: dict[BranchId, Listener] = {}
        self._replies: dict[int, ReplyListener] = {}
        self._branch_ids = itertools.count(1)
        self._numbers = itertools.count(1)
        self._ending = threading.Lock()

    def add_branch(self, listener: Listener) -> BranchId:
        """A fresh branch id whose events go to `listener` until its `Closed`, or until the end of all."""
        branch = next(self._branch_ids)
        self._listeners[branch] = listener
        return branch

    def forget_branch(self, branch: BranchId) -> None:
        """What still comes of a branch goes to nobody."""
        self._listeners.pop(branch, None)

    def add_request(self, listener: ReplyListener) -> int:
        """A fresh number whose reply goes to `listener`."""
        number = next(self._numbers)
        self._replies[number] = listener
        return number

    def forget_request(self, number: int) -> None:
        """The reply to `number`, if it still comes, goes to nobody."""
        self._replies.pop(number, None)

    def take(self, frame: bytes) -> None:
        """Deliver a frame's messages in order. A frame that is no list of messages is logged and dropped."""
        try:
            messages = _decode(frame)
        except (msgspec.DecodeError, RecursionError) as error:
            logger.warning("a frame of the runtime cannot be read: %s", error)
            return
        for message in messages:
            if isinstance(message, SlotEvent):
                listener = self._listeners.get(message.branch)
            elif isinstance(message, Closed):
                listener = self._listeners.pop(message.branch, None)
            else:
                self._take_control(message)
                continue
            if listener is not None:
                _call(listener, message)

    def fail(self, error: BranchworkError) -> None:
        """Nothing more will come: tell every listener so, once. Later calls do nothing; any thread."""
        with self._ending:
            if self.error is not None:
                return
            self.error = error
        listeners = [*self._listeners.values(), *self._replies.values()]
        self._listeners.clear()
        self._replies.clear()
        for listener in listeners:
            _call(listener, error)

    def _take_control(self, message: RuntimeMessage) -> None:
        match message:
            case Heartbeat(steps=steps):
                self.steps = steps
            case Reply(number=number):
                listener = self._replies.pop(number, None)
                if listener is not None:
                    _call(listener, message)
            case Welcome(version=version) if version != PROTOCOL_VERSION:
                self.fail(
                    VersionMismatch(
                        f"the runtime speaks version {version} of the protocol, this client "
                        f"{PROTOCOL_VERSION}"
                    )
                )
            case Welcome():
                self.welcome = message
            case Refused(code=code, message=sentence):
                self.fail(error_from(code, sentence))


def _call(listener: Callable[..., None], argument: object) -> None:
    # One caller's bug must not keep the others' events from them.
    try:
        listener(argument)
    except Exception:
        logger.exception("a listener raised")
