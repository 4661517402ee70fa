"""As `sglang.utils`: what programs and notebooks around the frontend use."""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from branchwork.runtime.wire.errors import RuntimeUnreachable


def read_jsonl(filename: str) -> list[Any]:
    """The values of a file with one JSON value a line; lines that begin with # are skipped."""
    with open(filename, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip() and not line.startswith("#")]


def dump_state_text(filename: str, states: Sequence[Any], mode: str = "w") -> None:
    """Write the texts of states, or texts as they are, with a line between them."""
    with open(filename, mode, encoding="utf-8") as out:
        for i, state in enumerate(states):
            text = (
                state
                if isinstance(state, str)
                else state.text()
                if hasattr(state, "text")
                else str(state)
            )
            out.write(f"{'=' * 40} {i} {'=' * 40}\n{text}\n{'=' * 80}\n\n")


def convert_json_schema_to_str(json_schema: Any) -> str:
    """A schema as text, whether it is one, a mapping, or a pydantic model."""
    if isinstance(json_schema, str):
        return json_schema
    if hasattr(json_schema, "model_json_schema"):
        json_schema = json_schema.model_json_schema()
    return json.dumps(json_schema)


class HttpResponse:
    """The answer of `http_request`."""

    def __init__(self, response: Any) -> None:
        self._response = response

    @cached_property
    def _body(self) -> bytes:
        with self._response:
            return bytes(self._response.read())

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self._body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self._body.decode("utf-8", "replace")

    @property
    def status_code(self) -> int:
        """The status."""
        return int(self._response.status)


def http_request(
    url: str,
    json: Any = None,
    stream: bool = False,
    api_key: str | None = None,
    method: str | None = None,
) -> HttpResponse:
    """A request with a JSON body, or a GET without one."""
    headers = {"Content-Type": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    data = None if json is None else convert_json_schema_to_str(json).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        return HttpResponse(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        return HttpResponse(error)


def download_and_cache_file(url: str, filename: str | None = None) -> str:
    """A local copy of what is at `url`, fetched once."""
    path = filename or os.path.join(tempfile.gettempdir(), url.rpartition("/")[2])
    if not os.path.exists(path):
        with urllib.request.urlopen(url) as response, open(path, "wb") as out:
            out.write(response.read())
    return path


def print_highlight(html_content: str) -> None:
    """Print."""
    print(html_content)


def launch_server_cmd(
    command: str, host: str = "127.0.0.1", port: int | None = None
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start `branchwork serve` with the options of an SGLang command line; returns the process and its port."""
    chosen = port or _free_port(host)
    words = shlex.split(command.replace("\\\n", " "))
    options = words[words.index("--model-path") + 1 :] if "--model-path" in words else ["sprout"]
    serve = [sys.executable, "-m", "branchwork", "serve", "--model", options[0]]
    return subprocess.Popen([*serve, "--host", host, "--port", str(chosen)]), chosen


def wait_for_server(base_url: str, timeout: float = 300.0, process: Any = None) -> None:
    """Return when the server answers. Raises RuntimeUnreachable when it has ended or does not answer in time."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise RuntimeUnreachable(
                f"the server at {base_url} has ended with code {process.poll()}"
            )
        try:
            with urllib.request.urlopen(f"{base_url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeUnreachable(f"nobody answered at {base_url} within {timeout} s")


def terminate_process(process: "subprocess.Popen[bytes]") -> None:
    """End a server and wait for it."""
    process.terminate()
    process.wait()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
