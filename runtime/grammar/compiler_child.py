"""The process that compiles constraints: it may be killed at any time, and holds nothing that is needed elsewhere.

Frames on stdin and stdout are a length (4 bytes, little-endian) and msgpack: a constraint or a stop pattern in, a
`Reply` out (first of all one that says that it is ready).
Started as `python -m branchwork.runtime.grammar.compiler_child MEMORY_MIB CPU_SECONDS CLOCK_SECONDS`.
"""

import os
import resource
import select
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import BinaryIO

import msgspec

from branchwork.runtime.grammar.compile import compile_constraint, compile_stop, prepare
from branchwork.runtime.grammar.reply import Reply
from branchwork.runtime.grammar.stops import StopPattern
from branchwork.runtime.wire.errors import ConstraintError
from branchwork.runtime.wire.messages import Constraint

# Python frames of our recursive functions: a constraint nested some 5,000 deep is still read.
RECURSION_LIMIT = 20_000

# With so large a share of its memory in use the process ends after its answer: its caches have grown.
FULL = 0.5

_decoder: "msgspec.msgpack.Decoder[Constraint | StopPattern]" = msgspec.msgpack.Decoder(
    Constraint | StopPattern
)


# Most constraints take less CPU than this; one that takes more has its client wait, and not those of others.
QUICK_S = 0.1

# How often the clock is looked at then: a refusal comes late by so much at most, and by what it takes to clear up.
RING_S = 0.02


class OutOfTime(BaseException):
    """The time for one constraint is over. No Exception: nobody on the way up may take it for an error of his own."""


class Allowance:
    """So many seconds of CPU for what is done inside the `with`; then `OutOfTime`.

    Of CPU, since on a busy machine seconds of the clock would refuse what is cheap; the parent watches the clock.
    What has taken its first `QUICK_S` goes on in what nobody else wants of the machine.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_behind = False
        self._begun_s: float | None = None
        signal.signal(signal.SIGPROF, self._ring)

    def __enter__(self) -> None:
        self._begun_s = time.process_time()
        # Again and again: a signal that falls into a callback of C code is lost.
        signal.setitimer(signal.ITIMER_PROF, min(QUICK_S, self.seconds), RING_S)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._begun_s = None
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _ring(self, signum: int, frame: FrameType | None) -> None:
        if self._begun_s is None:
            return
        if time.process_time() - self._begun_s >= self.seconds:
            raise OutOfTime
        if not self.is_behind:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            self.is_behind = True

    def come_forward(self) -> bool:
        """Be as at the start again; False if that is not allowed (it takes a privilege)."""
        if self.is_behind:
            try:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            except PermissionError:
                return False
            self.is_behind = False
        return True


def answer(data: bytes, allowance: Allowance) -> Reply:
    """The reply to one frame."""
    try:
        with allowance:
            return Reply(_compiled(data))
    except ConstraintError as error:
        return Reply(refusal=str(error), param=error.param)
    except msgspec.ValidationError as error:
        return Reply(refusal=f"this is no constraint: {error}")
    except OutOfTime:
        seconds = allowance.seconds
        return Reply(refusal=f"the constraint takes longer than {seconds:g} s to compile")
    except RecursionError:
        return Reply(refusal="the constraint is nested too deeply")
    except MemoryError:
        return Reply(refusal="the constraint needs too much memory (--grammar-memory)")
    except Exception as error:
        # A bug of ours: it is told to the parent, and this process lives on.
        return Reply(failure=f"{type(error).__name__}: {error}")


def _compiled(data: bytes) -> bytes:
    asked = _decoder.decode(data)
    if isinstance(asked, StopPattern):
        return msgspec.msgpack.encode(compile_stop(asked.pattern))
    return compile_constraint(asked).to_bytes()


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
    """Serve until stdin ends, or nobody reads what is answered."""
    try:
        _serve()
    except BrokenPipeError:
        # The runtime has ended meanwhile. At the usual end what is left would be written again.
        os._exit(0)


def _serve() -> None:
    memory_mib, cpu_s, clock_s = (float(argument) for argument in sys.argv[1:])
    os.nice(10)
    # Work that comes does not push aside whoever runs: streams go on first.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    sys.setrecursionlimit(RECURSION_LIMIT)
    write_frame(sys.stdout.buffer, msgspec.msgpack.encode(Reply()))
    for _ in prepare():
        if select.select([sys.stdin], [], [], 0)[0]:
            break
    # What was prepared is ours, and no constraint's memory.
    allowance, at_first = Allowance(cpu_s), _address_space()
    most = at_first + (int(memory_mib) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    is_last = False
    while not is_last and (frame := read_frame(sys.stdin.buffer)) is not None:
        # The parent kills us when we take too long; should it be gone itself, the alarm does.
        signal.setitimer(signal.ITIMER_REAL, clock_s + 1)
        reply = answer(frame, allowance)
        signal.setitimer(signal.ITIMER_REAL, 0)
        is_full = _address_space() - at_first > FULL * (most - at_first)
        is_last = is_full or not allowance.come_forward()
        reply = msgspec.structs.replace(reply, is_last=is_last)
        write_frame(sys.stdout.buffer, msgspec.msgpack.encode(reply))


def _address_space() -> int:
    """Bytes in use."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
