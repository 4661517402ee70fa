"""What a caller is told when something is wrong: a status, a sentence, and which field it is about.

One `ApiError` for all routes; the shape on the wire is OpenAI's, or Anthropic's on its route. No answer carries a
trace, a path or an address of memory: sentences are made here and in `runtime.wire.errors`, never from a caught bug.
"""

import math
from dataclasses import dataclass

import msgspec
from starlette.responses import Response

from branchwork.runtime.wire import errors as wire
from branchwork.runtime.wire.messages import Failed


class ApiError(Exception):
    """One request's end in an error answer."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        param: str | None = None,
        code: str | None = "invalid_parameter",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        """OpenAI's `type` for the status."""
        return _KINDS.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    499: "client_closed_request",
}

_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class _Meaning:
    """How a code of the runtime reads over HTTP."""

    status: int
    code: str


_MEANINGS = {
    wire.InvalidParameter.code: _Meaning(400, "invalid_parameter"),
    wire.ConstraintError.code: _Meaning(400, "invalid_constraint"),
    wire.RequestTooLong.code: _Meaning(400, "context_length_exceeded"),
    wire.RequestError.code: _Meaning(400, "invalid_request"),
    wire.QueueFull.code: _Meaning(429, "queue_full"),
    wire.DeadlineExceeded.code: _Meaning(504, "deadline_exceeded"),
    wire.Aborted.code: _Meaning(499, "aborted"),
    wire.BranchFailed.code: _Meaning(500, "internal_error"),
    wire.InternalError.code: _Meaning(500, "internal_error"),
    wire.RuntimeDied.code: _Meaning(503, "runtime_unavailable"),
    wire.TransportError.code: _Meaning(503, "runtime_unavailable"),
    wire.RuntimeUnreachable.code: _Meaning(503, "runtime_unavailable"),
}


# By these words of OpenAI's and of Anthropic's, clients know that a shorter prompt, or a larger model, would do.
_TOO_LONG = "This model's maximum context length is exceeded: prompt is too long."


def from_failed(event: Failed, field: str | None = None) -> ApiError:
    """The answer to a slot that failed in the runtime; `field` is where its constraint came from.

    What the runtime says of a constraint is a place inside it; a client knows it by the field.
    """
    error = _api_error(event.code, event.message, event.param)
    if event.code == wire.ConstraintError.code and field is not None:
        place = f" (at {event.param})" if event.param else ""
        error = ApiError(f"{field}: {event.message}{place}", 400, field, error.code)
    return error


def from_error(error: wire.BranchworkError) -> ApiError:
    """The answer to a request whose runtime could not be reached, or that was refused on the way."""
    return _api_error(error.code, str(error), getattr(error, "param", None))


def _api_error(code: str, message: str, param: str | None) -> ApiError:
    meaning = _MEANINGS.get(code, _Meaning(500, "internal_error"))
    if meaning.status == 500:
        message = "the runtime failed in this request"  # a bug's own words may hold a prompt
    if code == wire.RequestTooLong.code:
        message = f"{message}. {_TOO_LONG}"
    retry = wire.QueueFull.retry_after_s if meaning.status in (429, 503) else None
    return ApiError(message, meaning.status, param, meaning.code, retry)


def unavailable(message: str = "the runtime is starting; try again shortly") -> ApiError:
    """503: no runtime answers at the moment."""
    return ApiError(message, 503, None, "runtime_unavailable", retry_after_s=1.0)


def openai_body(error: ApiError) -> bytes:
    """OpenAI's shape."""
    inner = {
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    return msgspec.json.encode({"error": inner})


def anthropic_body(error: ApiError) -> bytes:
    """Anthropic's shape."""
    default = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _ANTHROPIC_KINDS.get(error.status, default)
    inner = {"type": kind, "message": error.message}
    return msgspec.json.encode({"type": "error", "error": inner})


def error_response(error: ApiError, path: str = "") -> Response:
    """The answer, in the shape of the route that was asked."""
    body = anthropic_body(error) if path.startswith("/v1/messages") else openai_body(error)
    headers = {}
    if error.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not waited for
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return Response(body, error.status, headers, "application/json")
