"""The gateway's options, in the form of the runtime's: one definition for flag, field, variable and documentation."""

import ipaddress
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from branchwork.runtime.wire.config import check_options, option
from branchwork.runtime.wire.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the HTTP gateway is started. Raises ConfigError where a value is out of its bounds.

    Keys are given in files or in the environment (`BRANCHWORK_API_KEY`, `BRANCHWORK_ADMIN_KEY`), never as flags
    that a process list would show; `with_keys` reads them.
    """

    host: str = option("127.0.0.1", "address to listen on", "server")
    port: int = option(8000, "port to listen on; 0: a free one", "server", "", 0, 65_535)
    api_key: str = option("", "key of every route but /health; empty: none is asked for", "server")
    api_key_file: str = option("", "file that holds the API key", "server")
    admin_key: str = option("", "key of the admin routes; empty: the API key", "server")
    admin_key_file: str = option("", "file that holds the admin key", "server")
    without_key: bool = option(
        False, "listen beyond this machine although no API key is set", "server"
    )
    allowed_hosts: str = option(
        "", "names, with commas, under which browsers may reach a server without a key", "server"
    )
    served_model_name: str = option(
        "", "names of the model, with commas, first one is shown; empty: its own", "server"
    )
    tool_format: Literal["auto", "hermes", "llama3", "mistral", "none"] = option(
        "auto", "how the model writes tool calls; auto: as its chat template does", "server"
    )
    reasoning_format: Literal["auto", "think", "none"] = option(
        "auto", "how the model marks its reasoning; auto: as its chat template does", "server"
    )

    otel_endpoint: str = option(
        "", "where OpenTelemetry spans go, as OTLP over HTTP; empty: nowhere", "server"
    )

    max_body: int = option(8 << 20, "body of one request", "limits", "bytes", 1024, 1 << 30)
    max_header_bytes: int = option(
        65_536, "headers of one request", "limits", "bytes", 1024, 1 << 20
    )
    max_headers: int = option(100, "header lines of one request", "limits", "headers", 10, 10_000)
    header_timeout: float = option(20.0, "arrival of all headers", "limits", "s", 0.1, 600.0)
    body_timeout: float = option(60.0, "arrival of the whole body", "limits", "s", 0.1, 3600.0)
    write_timeout: float = option(
        60.0, "one piece of an answer waits for its reader", "limits", "s", 0.1, 3600.0
    )
    request_timeout: float = option(
        600.0, "one request, from arrival to its last token", "limits", "s", 0.1, 86_400.0
    )
    max_requests: int = option(
        1024, "requests in the gateway before new ones get 429", "limits", "requests", 1, 1_000_000
    )
    max_n: int = option(128, "answers to one prompt (n, best_of)", "limits", "answers", 1, 4096)
    max_prompts: int = option(
        2048, "prompts, or texts, of one request", "limits", "prompts", 1, 65_536
    )
    max_logprobs: int = option(
        20, "most likely tokens beside each token", "limits", "tokens", 0, 1000
    )
    max_stops: int = option(16, "stop strings of one request", "limits", "stops", 0, 1024)
    max_stop_bytes: int = option(1024, "one stop string", "limits", "bytes", 1, 65_536)
    max_logit_bias: int = option(1024, "entries of a logit bias", "limits", "entries", 0, 1_000_000)
    max_schema_bytes: int = option(
        256 << 10, "a schema, grammar or regex", "limits", "bytes", 16, 1 << 26
    )
    max_tools: int = option(256, "tools of one request", "limits", "tools", 0, 65_536)
    max_stored: int = option(
        1024, "stored responses for previous_response_id", "limits", "responses", 0, 1_000_000
    )
    max_stored_bytes: int = option(64 << 20, "all stored responses", "limits", "bytes", 0, 1 << 36)

    drain_timeout: float = option(
        30.0, "running requests finish after SIGTERM", "process", "s", 0.0, 3600.0
    )
    stuck_after: float = option(
        8.0, "the runtime's silence that turns /health red", "process", "s", 0.5, 600.0
    )
    longest_step: float = option(
        60.0,
        "one forward pass; beyond it, while requests run, /health turns red",
        "process",
        "s",
        1.0,
        86_400.0,
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def shows_prompts(self) -> bool:
        """Whether an administrator is shown what others asked: by the admin key, or on a machine of one's own."""
        return bool(self.admin_key) or not (self.api_key or self.without_key)

    def with_keys(self) -> "ServerConfig":
        """The same options with both keys read from where they stand. Raises ConfigError.

        A key comes from its field, else from its file, else from the environment.
        """
        config = replace(
            self,
            api_key=self.api_key or _read_key(self.api_key_file, "API_KEY"),
            admin_key=self.admin_key or _read_key(self.admin_key_file, "ADMIN_KEY"),
        )
        if not (config.api_key or config.without_key or _is_loopback(config.host)):
            raise ConfigError(
                f"--host {config.host} is open to other machines: set BRANCHWORK_API_KEY or "
                "--api-key-file (or --without-key to serve everyone)"
            )
        return config


def _read_key(path: str, name: str) -> str:
    if not path:
        return os.environ.get(f"BRANCHWORK_{name}", "").strip()
    flag = f"--{name.lower().replace('_', '-')}-file"
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {path}: cannot be read ({type(error).__name__})") from None
    if not key:
        raise ConfigError(f"{flag} {path}: holds no key")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
