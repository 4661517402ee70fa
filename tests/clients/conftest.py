"""A real server over a small model, for clients as their users run them.

`CLIENTS_MODEL` names the model (jobs.py); `BRANCHWORK_TEST_URL` a server that runs already, instead.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.clients.jobs import ADMIN_KEY, KEY, MODEL
from tests.runtime.server.real import branchwork

HERE = Path(__file__).parent
# Clients disagree about each other's versions: the groups of `make test-clients`, each with an environment of its own.
GROUPS = {
    "openai2": ["openai"],
    "openai3": ["openai"],
    "frameworks": ["anthropic", "instructor", "langchain", "litellm", "pydantic_ai"],
    "agents": ["autogen", "haystack", "openai_agents", "smolagents"],
    "programs": ["dspy", "guidance", "llama_index", "outlines"],
    "guidellm": ["guidellm"],
    "lm_eval": ["lm_eval"],
    "node": ["node"],
    "browser": ["openapi", "page"],
}
GROUP = os.environ.get("CLIENTS_GROUP")
# Without a group, whatever is installed here is run.
collect_ignore = [
    path.name for path in HERE.glob("test_*.py") if GROUP and path.stem[5:] not in GROUPS[GROUP]
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `--model` takes."""
    if MODEL != "random":
        return MODEL
    folder = tmp_path_factory.mktemp("random")
    # torch is in the server's environment, not in the clients'.
    named = os.environ.get("BRANCHWORK_COMMAND")
    python = Path(named).with_name("python") if named else sys.executable
    command = [python, "-m", "tests.clients.random_model", str(folder)]
    subprocess.run(command, check=True, cwd=HERE.parents[1])
    return str(folder)


@pytest.fixture(scope="session")
def url(model_path: str) -> Iterator[str]:
    """Where the server is; every route but /health needs `KEY`."""
    if running := os.environ.get("BRANCHWORK_TEST_URL"):
        yield running
        return
    port = free_port()
    command = [*branchwork(), "serve", "--port", str(port), "--model", model_path]
    names = ["--served-model-name", "sprout"]
    keys = {"BRANCHWORK_API_KEY": KEY, "BRANCHWORK_ADMIN_KEY": ADMIN_KEY}
    environment = {**os.environ, **keys}
    process = subprocess.Popen([*command, *names], env=environment, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended during its start"
        try:
            if httpx.get(address + "/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError("the server is not ready in time")
