"""When the machine's functions are machine code. The first start after an installation compiles them, in a process of
its own: a compiler beside the engine would hold the interpreter's lock, and the engine with it, for most of a minute.

    python -m branchwork.runtime.grammar.machine_code        compiles, ahead of the first start
"""

import fcntl
import subprocess
import sys
from pathlib import Path

from branchwork.runtime.grammar import machine
from branchwork.runtime.grammar.warm import warm

try:
    from branchwork.kernels.cpu.cached import cache_folder, sources_digest
except ImportError:  # without numba the functions run as they are
    _mark: Path | None = None
else:
    _mark = cache_folder() / f"branchwork-machine-{sources_digest(Path(machine.__path__[0]))}"


def is_compiled() -> bool:
    """Whether nothing is left to compile: `warm` takes a fraction of a second."""
    return _mark is None or _mark.exists()


def start_compiling() -> "subprocess.Popen[bytes]":
    """Compile in a child process; it ends when the code is on disk."""
    return subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.DEVNULL)


def compile_now() -> None:
    """Compile, unless another process has done it or is at it."""
    if _mark is None:
        return
    with _mark.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _mark.exists():
            warm()
            _mark.touch()


if __name__ == "__main__":
    compile_now()
