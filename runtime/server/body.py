"""Reads the body of a request, within the server's bounds on its size and its time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.jobs import ClientGone


async def read_body(request: Request, config: ServerConfig) -> bytes:
    """The whole body. Raises ApiError (408, 413, 415)."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(
            f"bodies in content-encoding {coding[:32]} are not read: send it as it is",
            status=415,
            code="unsupported_encoding",
        )
    pieces = bytearray()
    try:
        async with asyncio.timeout(config.body_timeout):
            async for piece in request.stream():
                pieces += piece
                if len(pieces) > config.max_body:
                    raise too_large(config)
    except TimeoutError:
        raise ApiError(
            f"the body did not arrive within {config.body_timeout:g} s (--body-timeout)",
            status=408,
            code="body_timeout",
        ) from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(pieces)


def too_large(config: ServerConfig) -> ApiError:
    """The refusal of a body beyond the server's bound."""
    return ApiError(
        f"the body has more than {config.max_body} bytes (--max-body)", status=413, code="too_large"
    )
