"""What the engine knows of the device: a runner takes plans and gives results, at once or one step later."""

from dataclasses import dataclass
from typing import Protocol

from branchwork.runtime.kv import KvMemory
from branchwork.runtime.plan import Plan, StepResult


class Pending(Protocol):
    """A step that has been launched."""

    def result(self) -> StepResult:
        """What came out; waits for the device. To be asked for once, in the order of the launches."""
        ...


@dataclass(frozen=True, slots=True)
class Computed:
    """A step that was computed when it was launched."""

    value: StepResult

    def result(self) -> StepResult:
        """What came out."""
        return self.value


class Runner(KvMemory, Protocol):
    """What computes plans, in the order of their launches: the model, or a stand-in.

    What it has computed can be copied out and in (`KvMemory`): after all that was launched before.
    """

    @property
    def num_slots(self) -> int:
        """Size of the KV pool."""
        ...

    @property
    def max_len(self) -> int:
        """The longest sequence it can be asked for."""
        ...

    @property
    def steps_ahead(self) -> int:
        """How many steps may be in flight while the host books and plans; 0: a launch computes."""
        ...

    @property
    def num_machines(self) -> int:
        """How many constraints the device can follow by itself at once (`Sample.place`)."""
        ...

    def launch(self, plan: Plan) -> Pending:
        """Start one step behind all earlier ones. In it, `CHOSEN` is what the step before chose for the row."""
        ...
