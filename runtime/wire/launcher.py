"""Starting a runtime process, watching it, and ending it.

The process gets a session of its own, so that Ctrl-C reaches the program alone; a socket in a fresh folder that only
this user may enter; and a pipe whose end tells it that its parent is gone.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from typing import Any

from branchwork.runtime.wire import client, curve
from branchwork.runtime.wire.config import SAVING_S, RuntimeConfig, adapter_pairs
from branchwork.runtime.wire.errors import (
    ConfigError,
    RuntimeDied,
    RuntimeUnreachable,
    UnknownOption,
    error_from,
)
from branchwork.runtime.wire.pipe import is_readable_within

RUNTIME = "branchwork.runtime.process"
Progress = Callable[[str], None]

# A process whose connection has just ended may need so long to end itself.
_ENDING_S = 2.0

# A path of a unix socket fits in 107 bytes (sun_path); the folder's name and the file's take this much.
_MAX_FOLDER_BYTES = 80


def launch(
    config: RuntimeConfig | None = None,
    *,
    progress: Progress | None = None,
    timeout_s: float = 300.0,
    module: str = RUNTIME,
    **options: Any,
) -> "RunningRuntime":
    """Start a runtime and wait until it serves. `options` are fields of RuntimeConfig, on top of `config`.

    `progress` hears what the start is at. Raises UnknownOption, ConfigError, ModelError: what the process says of
    its start; RuntimeDied when it ends without a word, RuntimeUnreachable when it takes longer than `timeout_s`.
    """
    config = configure(config or RuntimeConfig(), options)
    curve.key_for(config.address or "ipc://", config.key_file)
    runtime = RunningRuntime(config, module)
    try:
        runtime.await_ready(progress, time.monotonic() + timeout_s)
    except BaseException:
        runtime.close(drain_s=0.0)
        raise
    return runtime


def configure(config: RuntimeConfig, options: dict[str, Any]) -> RuntimeConfig:
    """The config with some fields changed; adapters in any form of `adapter_pairs`.

    Raises UnknownOption with the nearest name, ConfigError.
    """
    names = [spec.name for spec in fields(RuntimeConfig)]
    for name in options:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            raise UnknownOption(f"{name}; did you mean {near[0]}?" if near else name)
    if "adapters" in options:
        options = {**options, "adapters": adapter_pairs(options["adapters"])}
    return replace(config, **options)


class RunningRuntime:
    """A runtime process of this program's own. It ends with `close`, with the program, or by itself."""

    def __init__(self, config: RuntimeConfig, module: str) -> None:
        self._owner = os.getpid()
        self._folder = "" if config.address else _private_folder()
        address = config.address or f"ipc://{self._folder}/socket"
        self.config = replace(config, address=address)
        self.address = address
        self._unread = b""
        self._closing = threading.Lock()
        self._process = subprocess.Popen(
            # -P: a file of the user's that is called json.py is not what the runtime imports.
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self._command(json.dumps({"folder": self._folder, **asdict(self.config)}))
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def connect(self, name: str = "", timeout_s: float = 10.0) -> client.Client:
        """A client of this runtime. Errors as `client.connect`."""
        return client.connect(
            self.address,
            key_file=self.config.key_file,
            name=name,
            timeout_s=timeout_s,
            obituary=self.ending,
        )

    def wait_exit(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the process; whether it has ended."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ending(self) -> str:
        """A sentence on how the process ended; empty while it runs."""
        if not self.wait_exit(_ENDING_S):
            return ""
        return f"the runtime (pid {self.pid}) {_how_it_ended(self._process.returncode)}"

    def terminate(self) -> None:
        """Ask the process to end, as an operator would: what is open may finish."""
        self._process.terminate()

    def kill(self) -> None:
        """End the process at once, with whatever it has started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self, drain_s: float = 5.0) -> None:
        """End the process: open slots may finish for `drain_s` seconds. Later calls do nothing; any thread."""
        atexit.unregister(self.close)
        if self._owner != os.getpid():
            return  # a forked child has no say in this
        with self._closing:
            self._close(drain_s)

    def _close(self, drain_s: float) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            return
        if self.alive:
            self._command(f"shutdown {drain_s}")
            saving_s = SAVING_S if self.config.kv_store else 0.0
            if not self.wait_exit(drain_s + saving_s + 2.0):
                self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "RunningRuntime":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def await_ready(self, progress: Progress | None, deadline: float) -> None:
        """Follow the start to its end. Errors as `launch`."""
        while True:
            line = self._read_status(deadline)
            if "ready" in line:
                self.address = line["ready"]["address"]
                return
            if "error" in line:
                raise error_from(line["error"]["code"], line["error"]["message"])
            if progress is not None:
                progress(line["progress"])

    def _read_status(self, deadline: float) -> dict[str, Any]:
        assert self._process.stdout is not None, "opened as a pipe"
        fd = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            if not is_readable_within(fd, deadline - time.monotonic()):
                raise RuntimeUnreachable("the runtime is not ready in time")
            data = os.read(fd, 65_536)
            if not data:
                raise RuntimeDied(f"{self.ending() or 'the runtime ended'} during its start")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        status: dict[str, Any] = json.loads(line)
        return status

    def _command(self, line: str) -> None:
        assert self._process.stdin is not None, "opened as a pipe"
        try:
            self._process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            return  # it is gone already, which its exit status tells


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _private_folder() -> str:
    """A new folder that only this user may enter (mkdtemp makes it 0700)."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _MAX_FOLDER_BYTES:
        parent = "/tmp"
    try:
        return tempfile.mkdtemp(prefix="branchwork-", dir=parent)
    except OSError as error:
        raise ConfigError(f"{parent}: no folder for the socket: {error.strerror}") from error
