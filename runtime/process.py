"""The runtime process, as `runtime.wire.launcher` starts it: `python -P -m branchwork.runtime.process`.

Standard input is the line to the parent: first a line of JSON with the options, later perhaps "shutdown SECONDS"; its
end means that the parent is gone, and the process goes at once, with its children. Standard output carries a line of
JSON for each step of the start: {"progress": …}, then {"ready": …} or {"error": …}. Only what is light is imported
before the line is watched, so no orphan is left even by a parent that dies during the start.
"""

import contextlib
import json
import logging
import os
import resource
import select
import shutil
import signal
import threading
from collections.abc import Callable
from typing import NoReturn, Protocol

from branchwork.runtime.wire.config import RuntimeConfig, adapter_pairs
from branchwork.runtime.wire.errors import BranchworkError, InternalError

logger = logging.getLogger(__name__)

DRAIN_S = 30.0
"""How long a terminated runtime lets open slots finish."""


class Runtime(Protocol):
    """What this process is for."""

    @property
    def address(self) -> str:
        """Where it listens."""
        ...

    def run(self) -> None:
        """Serve until stopped. Raises when the engine has died."""
        ...

    def stop(self, drain_s: float) -> None:
        """Let open slots finish, for `drain_s` seconds at most, and return from `run`."""
        ...


Report = Callable[[str], None]
Assemble = Callable[[RuntimeConfig, Report], Runtime]
"""Builds the runtime, and reports what it is at; may take long and import much."""


class Parent:
    """The line to the launching process."""

    def __init__(self) -> None:
        self._pid = os.getppid()
        self._unread = b""
        self._folder = ""
        self._runtime: Runtime | None = None
        # Libraries print; what they print must not come between the lines of the status.
        self._status = os.dup(1)
        os.dup2(2, 1)

    def read_options(self) -> RuntimeConfig:
        """The first line. Raises ConfigError."""
        while b"\n" not in self._unread:
            data = os.read(0, 65_536)
            if not data:
                os._exit(1)
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        options = json.loads(line)
        self._folder = options.pop("folder")
        options["adapters"] = adapter_pairs(options["adapters"])
        return RuntimeConfig(**options)

    def tell(self, **line: object) -> None:
        """Write one line of status. A parent that is gone is noticed by the watch."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._status, json.dumps(line).encode() + b"\n")

    def start_watch(self) -> None:
        """From here on, this process ends with its parent."""
        threading.Thread(target=self._watch, name="parent-watch", daemon=True).start()

    def obey(self, runtime: Runtime) -> None:
        """From here on, commands stop `runtime`."""
        self._runtime = runtime

    def leave(self, status: int) -> NoReturn:
        """End this process with `status`, and those that it has started; to be called on the main thread."""
        self._clean_up()
        if os.getpgrp() == os.getpid():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)
        os._exit(status)

    def _vanish(self) -> NoReturn:
        """The same at once, for a parent that no longer looks."""
        self._clean_up()
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    def _clean_up(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self) -> None:
        sources = [0]
        # The pipe alone would not do: a fork of the parent may hold its other end.
        with contextlib.suppress(AttributeError, OSError):
            sources.append(os.pidfd_open(self._pid))
        while True:
            readable, _, _ = select.select(sources, [], [])
            data = os.read(0, 4096) if 0 in readable else b""
            if not data:
                self._vanish()
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                command, _, seconds = line.partition(b" ")
                if command == b"shutdown":
                    self._shut_down(float(seconds))

    def _shut_down(self, drain_s: float) -> None:
        if self._runtime is None:  # it is still starting
            self._vanish()
        self._runtime.stop(drain_s)


def boot(assemble: Assemble) -> NoReturn:
    """Run what `assemble` builds, between a parent's first line and its last."""
    os.umask(0o077)
    _allow_many_files()
    parent = Parent()
    status = 1
    try:
        options = parent.read_options()
        parent.start_watch()
        _log_to_stderr(options)
        runtime = assemble(options, lambda progress: parent.tell(progress=progress))
        parent.obey(runtime)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runtime.stop(DRAIN_S))
        parent.tell(ready={"address": runtime.address})
        runtime.run()
        status = 0
    except BranchworkError as error:
        parent.tell(error={"code": error.code, "message": str(error)})
    except Exception as error:
        logger.exception("the runtime has failed")
        kind = type(error).__name__
        parent.tell(error={"code": InternalError.code, "message": f"the runtime failed: {kind}"})
    finally:
        logging.shutdown()
        parent.leave(status)


def _allow_many_files() -> None:
    """Every client is an open file; the usual limit of 1,024 is there for programs that cannot count further."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _log_to_stderr(options: RuntimeConfig) -> None:
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def _assemble(options: RuntimeConfig, report: Report) -> Runtime:
    # torch and all that: seconds to import, and by now the parent is watched.
    from branchwork.runtime.model_service import assemble  # noqa: PLC0415

    return assemble(options, report)


if __name__ == "__main__":
    boot(_assemble)
