"""An application over a scripted backend, and a client of it, without a socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.runtime.server.fake import FakeBackend, Script

from branchwork.runtime.server.app import build_app
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.gateway import Gateway


class Server:
    """A gateway over a `FakeBackend`, asked synchronously; the event loop is its own."""

    def __init__(self, backend: FakeBackend | None = None, **options: Any) -> None:
        self.backend = backend or FakeBackend()
        self.gateway = Gateway(ServerConfig(**options))
        self.runner = asyncio.Runner()
        self.app = self.runner.run(self._start())

    async def _start(self) -> Any:
        await self.gateway.attach(self.backend)
        return build_app(self.gateway, _nothing)

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        """Run `work` with a client."""
        return self.runner.run(self._with_client(work))

    async def _with_client(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await work(client)

    def request(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """One request."""
        return self.run(lambda client: client.request(method, path, **parts))

    def post(self, path: str, body: Any, **parts: Any) -> httpx.Response:
        """One POST of JSON."""
        return self.request("POST", path, json=body, **parts)

    def get(self, path: str, **parts: Any) -> httpx.Response:
        """One GET."""
        return self.request("GET", path, **parts)

    def close(self) -> None:
        """End the backend's thread and the loop."""
        self.backend.close()
        self.runner.close()


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def attached(gateway: Gateway, backend: FakeBackend) -> AsyncIterator[None]:
    """The life of an application whose backend is there from the start."""
    await gateway.attach(backend)
    yield


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    """Makes servers: `serving(pieces=[b"a"], n=…)`, or with a backend of one's own."""
    servers: list[Server] = []

    def make(
        script: Script | None = None, backend: FakeBackend | None = None, **options: Any
    ) -> Server:
        if script is not None:
            backend = FakeBackend(lambda prompt, gen: script)
        servers.append(Server(backend, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
