"""HTTP on the wire, with bounds that hold before any application sees a request: size, number and time of headers."""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.errors import ApiError, openai_body


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol; a connection whose headers are too large, too many or too slow is told so and closed."""

    server_config: ClassVar[ServerConfig] = ServerConfig()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._reading_headers = True
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection from which nothing comes is closed like one whose headers are slow."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; bytes that belong to no complete headers are counted before they are kept."""
        if self._refused:
            return
        if self._reading_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._reading_headers and self._header_bytes > self.server_config.max_header_bytes:
            self._refuse()

    def on_message_begin(self) -> None:
        """A request begins; its headers have a time."""
        super().on_message_begin()
        self._reading_headers = True
        self._header_bytes = 0
        self._arm()

    def on_headers_complete(self) -> None:
        """Start the request, unless its headers are out of bounds."""
        self._disarm()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        too_many = len(self.headers) > self.server_config.max_headers
        if too_many or size > self.server_config.max_header_bytes:
            self._refuse()
            return
        self._reading_headers = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on the body of a request that was started."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Pass on the end of a request that was started."""
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, in the shape of every other error."""
        self._answer(b"400 Bad Request", ApiError("this is not HTTP/1.1", code="invalid_http"))

    def _refuse(self) -> None:
        config = self.server_config
        message = (
            f"the headers exceed {config.max_header_bytes} bytes or {config.max_headers} lines "
            "(--max-header-bytes, --max-headers)"
        )
        error = ApiError(message, status=431, code="headers_too_large")
        self._answer(b"431 Request Header Fields Too Large", error)

    def _answer(self, status: bytes, error: ApiError) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._disarm()
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy:
            body = openai_body(error)
            head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            self.transport.write((head + b"connection: close\r\n\r\n") % (status, len(body)) + body)
        self.transport.close()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.server_config.header_timeout, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        error = ApiError("the headers did not arrive in time", status=408, code="header_timeout")
        self._answer(b"408 Request Timeout", error)


def bounded_protocol(config: ServerConfig) -> type[BoundedProtocol]:
    """The protocol with the bounds of `config`; uvicorn takes a class, not an object."""

    class Bounded(BoundedProtocol):
        server_config = config

    return Bounded
