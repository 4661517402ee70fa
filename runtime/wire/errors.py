"""Everything that can go wrong, as one tree, and the codes by which it crosses the socket.

BranchworkError
├── ProgramError               the author of a program: wrong call, role nesting, unknown slot
│   ├── UnknownOption          "max_token; did you mean max_tokens?"
│   ├── SlotError              a slot that does not exist, or exists twice
│   └── RoleError              roles that do not nest
├── RequestError               one request, refused or failed; others are not touched
│   ├── InvalidParameter       out of bounds or of the wrong type; `param` names it
│   ├── ConstraintError        a constraint that cannot be compiled or enforced; `param` is where
│   ├── RequestTooLong         longer than the context or the pool
│   ├── QueueFull              try again after `retry_after_s`
│   ├── DeadlineExceeded
│   ├── Aborted
│   └── InternalError          our bug, in this request alone
├── TransportError
│   ├── RuntimeDied            the runtime process is gone
│   ├── RuntimeUnreachable     nobody answers at the address
│   └── VersionMismatch
└── SetupError
    ├── ConfigError            an option of the runtime
    └── ModelError             a model folder that cannot be served
"""

from typing import ClassVar

# Characters of a sentence about a folder.
_LONGEST = 1000


class BranchworkError(Exception):
    """Base of every error that branchwork raises on purpose; the message is one sentence.

    >>> try:
    ...     capital.run(country="France")["town"]
    ... except bw.BranchworkError as error:
    ...     print(error)
    no slot named 'town' (known: city)
    """

    code: ClassVar[str] = "error"


class ProgramError(BranchworkError):
    """A mistake in the program; the message names the line where that is known."""

    code = "program_error"


class UnknownOption(ProgramError, TypeError):
    """An option that does not exist."""

    code = "unknown_option"


class SlotError(ProgramError, KeyError):
    """A slot that does not exist, or that exists already."""

    code = "slot_error"

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would quote the sentence


class RoleError(ProgramError):
    """Roles that do not nest."""

    code = "role_error"


class RequestError(BranchworkError):
    """One request was refused or has failed."""

    code = "request_error"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidParameter(RequestError, ValueError):
    """A parameter out of its bounds or of the wrong type."""

    code = "invalid_parameter"


class ConstraintError(RequestError, ValueError):
    """A constraint that cannot be compiled, enforced or met; `param` is a position or a JSON Pointer."""

    code = "invalid_constraint"


class RequestTooLong(RequestError):
    """More tokens than the context or the pool can ever hold."""

    code = "too_long"


class QueueFull(RequestError):
    """The runtime has as many waiting requests as it takes."""

    code = "queue_full"
    retry_after_s: float = 1.0


class DeadlineExceeded(RequestError, TimeoutError):
    """The request's own deadline passed."""

    code = "deadline"


class Aborted(RequestError):
    """The request was aborted by its client."""

    code = "aborted"


class BranchFailed(RequestError):
    """An earlier instruction of the same branch failed."""

    code = "branch_failed"


class InternalError(RequestError):
    """A bug in the runtime, contained in this request."""

    code = "internal"


class TransportError(BranchworkError, ConnectionError):
    """Between the program and the runtime."""

    code = "transport"


class RuntimeDied(TransportError):
    """The runtime process ended while someone waited for it."""

    code = "runtime_died"


class RuntimeUnreachable(TransportError):
    """Nobody answers at the address."""

    code = "unreachable"


class VersionMismatch(TransportError):
    """The runtime speaks another version of the protocol."""

    code = "version_mismatch"


class SetupError(BranchworkError):
    """The runtime cannot start as asked."""

    code = "setup"


class ConfigError(SetupError):
    """An option of the runtime that cannot be met."""

    code = "config"


class ModelError(SetupError):
    """A model folder that cannot be served.

    Words of the folder's own may stand in the message: it is cut, and has no control characters.
    """

    code = "model"

    def __init__(self, message: str) -> None:
        shown = message if len(message) <= _LONGEST else message[: _LONGEST - 1] + "…"
        super().__init__("".join(char if char.isprintable() else "\ufffd" for char in shown))


def _subclasses(cls: type[BranchworkError]) -> list[type[BranchworkError]]:
    return [cls, *(deep for sub in cls.__subclasses__() for deep in _subclasses(sub))]


_BY_CODE = {cls.code: cls for cls in _subclasses(BranchworkError)}


def error_from(code: str, message: str, param: str | None = None) -> BranchworkError:
    """The exception that a code and a sentence from the socket stand for."""
    cls = _BY_CODE.get(code, InternalError)
    if issubclass(cls, RequestError):
        return cls(message, param)
    return cls(message)
