"""A real server over the embedded model, for clients as their users run them.

`BRANCHWORK_TEST_URL` names one that runs already; `BRANCHWORK_TEST_MODEL` another model than sprout.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest
from tests.runtime.server.real import branchwork

MODEL = os.environ.get("BRANCHWORK_TEST_MODEL", "sprout")
# A model that was never trained does not stop by itself.
MAY_RUN_ON = MODEL != "sprout"
KEY = "clients-key"
ADMIN_KEY = "clients-admin-key"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Where the server is; every route but /health needs `KEY`."""
    if running := os.environ.get("BRANCHWORK_TEST_URL"):
        yield running
        return
    port = free_port()
    command = [*branchwork(), "serve", "--port", str(port), "--model", MODEL]
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
