"""A runtime without a model that gives every open slot one token at each beat: the load of `branchwork bench http`.

`python -m branchwork.bench.pulse`, by `launch(module="branchwork.bench.pulse")`; the beat is `BRANCHWORK_PULSE_MS`.
"""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from branchwork.runtime.empty import EmptyEngine, EmptyRuntime
from branchwork.runtime.inbox import BranchKey, CloseBranch, Generate, Operation
from branchwork.runtime.io.outlet import Outlet
from branchwork.runtime.process import Report, boot
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import Closed, Done, Event, Run, Tokens, Usage

TOKEN = b" word"


@dataclass(slots=True)
class _Slot:
    key: BranchKey
    slot: str
    left: int
    given: int = 0


class PulseEngine(EmptyEngine):
    """One thread beats; at each beat every open slot gets a token."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__(outlet)
        self._slots: list[_Slot] = []
        self._lock = threading.Lock()
        self._beat_s = float(os.environ.get("BRANCHWORK_PULSE_MS", "10")) / 1e3
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, operations: Sequence[Operation]) -> None:
        """Take slots; a branch is closed when its slot is done, or at once when it is aborted."""
        self._steps += len(operations)
        for operation in operations:
            if isinstance(operation, Generate):
                wanted = operation.gen.sampling.max_tokens or 1
                with self._lock:
                    self._slots.append(_Slot(operation.key, operation.gen.slot, wanted))
            elif isinstance(operation, CloseBranch) and operation.abort:
                with self._lock:
                    self._slots = [slot for slot in self._slots if slot.key != operation.key]
                self._outlet.send([(operation.key.client, Closed(operation.key.branch))])

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._beat_s, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            with self._lock:
                events = [event for slot in self._slots for event in _beat(slot)]
                self._slots = [slot for slot in self._slots if slot.given < slot.left]
            if events:
                self._outlet.send(events)


def _beat(slot: _Slot) -> list[tuple[bytes, Event]]:
    client, branch = slot.key
    slot.given += 1
    events: list[Event] = [Tokens(branch, slot.slot, TOKEN, (Run("sampled", (slot.given % 256,)),))]
    if slot.given == slot.left:
        usage = Usage(prompt=1, completion=slot.given, sampled=slot.given, steps=slot.given)
        text = (TOKEN * slot.given).decode()
        events += (Done(branch, slot.slot, "length", text, usage), Closed(branch))
    return [(client, event) for event in events]


def assemble(options: RuntimeConfig, report: Report) -> EmptyRuntime:
    """As `runtime.process.Assemble`."""
    return EmptyRuntime(options, PulseEngine)


if __name__ == "__main__":
    boot(assemble)
