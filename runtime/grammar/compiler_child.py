"""The process that compiles constraints: it may be killed at any time, and holds nothing that is needed elsewhere.

Frames on stdin and stdout are a length (4 bytes, little-endian) and msgpack: a constraint in; out (b"ok", program),
(b"refused", message, param) or (b"failed", message).
Started as `python -m branchwork.runtime.grammar.compiler_child MEMORY_MIB SECONDS`.
"""

import os
import resource
import signal
import sys
from typing import BinaryIO

import msgspec

from branchwork.runtime.grammar.compile import compile_constraint
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import Constraint

# Python frames of our recursive functions: a constraint nested some 5,000 deep is still read.
RECURSION_LIMIT = 20_000

_decoder: "msgspec.msgpack.Decoder[Constraint]" = msgspec.msgpack.Decoder(Constraint)


def answer(data: bytes) -> bytes:
    """The reply to one frame."""
    try:
        return msgspec.msgpack.encode((b"ok", compile_constraint(_decoder.decode(data))))
    except ConstraintError as error:
        return msgspec.msgpack.encode((b"refused", str(error), error.param))
    except msgspec.ValidationError as error:
        return msgspec.msgpack.encode((b"refused", f"this is no constraint: {error}", None))
    except MemoryError:
        return msgspec.msgpack.encode((b"refused", "the constraint needs too much memory", None))
    except Exception as error:
        # A bug of ours: it is told to the parent, and this process lives on.
        return msgspec.msgpack.encode((b"failed", f"{type(error).__name__}: {error}"))


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame, or None at the end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return stream.read(int.from_bytes(head, "little"))


def write_frame(stream: BinaryIO, data: bytes) -> None:
    """Send one frame."""
    stream.write(len(data).to_bytes(4, "little") + data)
    stream.flush()


def main() -> None:
    """Serve until stdin ends."""
    memory_mib, seconds = int(sys.argv[1]), float(sys.argv[2])
    os.nice(5)
    sys.setrecursionlimit(RECURSION_LIMIT)
    _limit_memory(memory_mib << 20)
    write_frame(sys.stdout.buffer, b"ready")
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        # The parent kills us when time is up; should it be gone itself, the alarm does.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)
        reply = answer(frame)
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_frame(sys.stdout.buffer, reply)


def _limit_memory(above: int) -> None:
    """Bound the address space to what is in use and `above` bytes more."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + above, used + above))


if __name__ == "__main__":
    main()
