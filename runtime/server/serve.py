"""`branchwork serve`: one runtime, one gateway, from the first line to the last."""

import signal
import socket
import sys
from functools import partial
from types import FrameType

import uvicorn

from branchwork.runtime.server.app import build_app
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.server.model import check_names
from branchwork.runtime.server.protocol import bounded_protocol
from branchwork.runtime.server.spans import open_spans
from branchwork.runtime.server.supervisor import Launch, Supervisor
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.launcher import launch

# Ctrl-C is pressed by someone who waits; SIGTERM comes from something that has time.
INTERRUPT_DRAIN_S = 8.0
KEEP_ALIVE_S = 65


class Server(uvicorn.Server):
    """uvicorn's server, which gives less time to what runs when it is interrupted by hand."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, a second Ctrl-C stops at once."""
        if sig == signal.SIGINT:
            drain = self.config.timeout_graceful_shutdown or 0
            self.config.timeout_graceful_shutdown = min(drain, int(INTERRUPT_DRAIN_S))
        super().handle_exit(sig, frame)


def serve(server: ServerConfig, runtime: RuntimeConfig, start: Launch | None = None) -> None:
    """Serve until a signal ends it; `start` starts another runtime than the usual. Raises SetupError.

    The address is bound before the model is loaded, so that a busy port is known at once; connections are taken when
    the runtime answers.
    """
    check_names(server, runtime)
    config = server.with_keys()
    spans = open_spans(config)
    start = start or partial(launch, runtime, progress=_say)
    bound = bind(config)
    with bound:
        first = start()
        gateway = Gateway(config)
        gateway.spans = spans
        supervisor = Supervisor(gateway, start, first)
        app = build_app(gateway, supervisor.lifespan)
        host, port = bound.getsockname()[:2]
        _say(f"runtime    pid {first.pid}")
        _say(f"listening  http://{f'[{host}]' if ':' in host else host}:{port}")
        run(Server(uvicorn_config(app, config)), bound)
        if spans is not None:
            spans.close()


def run(server: Server, bound: socket.socket) -> None:
    """Run the server to its end; ending by a signal is a good end."""
    # uvicorn raises the signals it caught again when it is done.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run(sockets=[bound])
    except KeyboardInterrupt:
        return


def bind(config: ServerConfig) -> socket.socket:
    """The socket to listen on. Raises ConfigError naming a busy port or a host that is not here."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((config.host, config.port))
    except OSError as error:
        bound.close()
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"--host {config.host} --port {config.port}: {reason}") from None
    return bound


def uvicorn_config(app: object, config: ServerConfig) -> uvicorn.Config:
    """How uvicorn runs the application: quiet, bounded, and with time to drain."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=bounded_protocol(config),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(int(config.drain_timeout), 1),
        backlog=2048,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
