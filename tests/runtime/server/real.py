"""`branchwork serve` as its users start it: a process, a port, a runtime of its own."""

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import httpx

KEY = "real-key"
HEADERS = {"authorization": f"Bearer {KEY}"}

# On a machine that has other things to do a boot takes its time; a test has more than one.
PATIENCE_S = 100.0


def branchwork() -> list[str]:
    """The command; `BRANCHWORK_COMMAND` names that of another environment, as clients have one of their own."""
    named = os.environ.get("BRANCHWORK_COMMAND")
    return [named] if named else [sys.executable, "-m", "branchwork"]


class RealServer:
    """A server over the embedded model; `runtime_pid` is its first runtime's."""

    def __init__(self, *flags: str, key: str = KEY) -> None:
        command = [*branchwork(), "serve", "--port", "0", "--threads", "1"]
        environment = {**os.environ, "BRANCHWORK_API_KEY": key}
        self.process = subprocess.Popen(
            [*command, *flags], env=environment, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.runtime_pid = int(_wait_for(self.process.stderr, r"runtime +pid (\d+)"))
        self.url = _wait_for(self.process.stderr, r"listening +(http://\S+)")
        # What is not read would one day block the server.
        self.said: deque[str] = deque(maxlen=200)
        self._reader = threading.Thread(
            target=self.said.extend, args=(self.process.stderr,), daemon=True
        )
        self._reader.start()
        self.wait_for("/ready", 200)

    def wait_for(self, path: str, status: int) -> None:
        """Until `path` answers so."""
        end = time.monotonic() + PATIENCE_S
        with httpx.Client(base_url=self.url, headers=HEADERS, timeout=PATIENCE_S) as client:
            while (answer := client.get(path)).status_code != status:
                assert time.monotonic() < end, f"{path}: {answer.text}\n{''.join(self.said)}"
                time.sleep(0.05)

    def close(self) -> None:
        """End it, if it has not ended yet."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()


def _wait_for(lines: IO[str], pattern: str) -> str:
    seen = []
    for line in lines:
        seen.append(line)
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"the server ended during its start: {''.join(seen)}")


@contextmanager
def real_server(*flags: str) -> Iterator[RealServer]:
    """A server for a while."""
    server = RealServer(*flags)
    try:
        yield server
    finally:
        server.close()
