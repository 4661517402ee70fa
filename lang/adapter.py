"""Programs computed with a low-rank adapter of the model: the same backend, with another name on its branches."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from branchwork.lang.default import resolve
from branchwork.runtime.wire.backend import Backend, Listener
from branchwork.runtime.wire.messages import BranchId, Instruction, Open, Welcome


class Adapted(msgspec.Struct, frozen=True):
    """A `Backend` that computes every branch with one adapter of `origin`. Two of the same are equal."""

    origin: Any
    adapter: str

    @property
    def welcome(self) -> Welcome:
        """The other backend's."""
        return self.origin.welcome  # type: ignore[no-any-return]

    def new_branch(self, listener: Listener) -> BranchId:
        """As the other backend."""
        return self.origin.new_branch(listener)  # type: ignore[no-any-return]

    def send(self, instructions: Sequence[Instruction]) -> None:
        """Pass on; a branch that is nobody's fork is opened with the adapter."""
        self.origin.send([self._adapted(instruction) for instruction in instructions])

    def _adapted(self, instruction: Instruction) -> Instruction:
        if not isinstance(instruction, Open) or instruction.parent is not None:
            return instruction
        return msgspec.structs.replace(instruction, adapter=self.adapter)

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """As the other backend."""
        return self.origin.wait(ready, timeout_s)  # type: ignore[no-any-return]

    def deliver_in_background(self) -> None:
        """As the other backend."""
        self.origin.deliver_in_background()

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        """As the other backend."""
        return self.origin.request(what, body, timeout_s)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the other backend."""
        self.origin.close()


def with_adapter(name: str, backend: Backend | None = None) -> Backend:
    """`backend` (None: the default one), for programs computed with its adapter of this name; "": with none.

    Raises InvalidParameter, with the names that there are, where the backend has no such adapter: an API has none.

    >>> backend = Scripted({"city": " Rome"}, adapters=("poet",))
    >>> capital.run(country="Italy", backend=bw.with_adapter("poet", backend))["city"]
    ' Rome'
    """
    chosen = origin_of(resolve(backend))
    if not name:
        return chosen
    known = chosen.welcome.adapters
    if name not in known:
        # What it imports takes a while, and only who is wrong needs it.
        from branchwork.runtime.wire.validate import check_adapter  # noqa: PLC0415

        check_adapter(name, known)
    return Adapted(chosen, name)


def origin_of(backend: Backend) -> Backend:
    """The backend without its adapter: what knows the tokens."""
    return backend.origin if isinstance(backend, Adapted) else backend


def adapter_of(backend: Backend) -> str:
    """The adapter that the backend's branches are computed with; "": none."""
    return backend.adapter if isinstance(backend, Adapted) else ""
