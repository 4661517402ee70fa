"""The states that come out of a fork, handled together."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Literal, Protocol, Self, TypeVar

from branchwork.lang.branch import Branch
from branchwork.lang.ir import Expr, expression
from branchwork.runtime.wire.errors import ProgramError


class Forkable(Protocol):
    """A state, as far as a group needs to know it."""

    branch: Branch


S = TypeVar("S", bound=Forkable)


class Group(Generic[S]):
    """Forked states. `group += x` appends to each: one expression to all, or an item of a list, or `x(i)`.

    >>> @bw.function
    ... def compare(s: bw.State) -> list[str]:
    ...     forks = s.fork(2)
    ...     forks += lambda i: f"Capital {i}:" + bw.gen("city")
    ...     return [fork["city"] for fork in forks]
    >>> compare.run().ret_value
    [' Paris', ' Tokyo']
    """

    def __init__(self, states: Sequence[S], source: Branch) -> None:
        self.states = list(states)
        self._source = source

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[S]:
        return iter(self.states)

    def __getitem__(self, i: int) -> S:
        return self.states[i]

    def __setitem__(self, i: int, state: S) -> None:
        if self.states[i] is not state:  # `group[i] += x` assigns the state to where it is
            raise ProgramError("the states of a fork cannot be replaced; append to them")

    def __iadd__(
        self, other: "Expr | str | Sequence[Expr | str] | Callable[[int], Expr | str]"
    ) -> Self:
        for state, item in zip(self.states, self._items(other), strict=True):
            state.branch.append(expression(item), sys._getframe(1))
        return self

    def _items(
        self, other: "Expr | str | Sequence[Expr | str] | Callable[[int], Expr | str]"
    ) -> list[Expr | str]:
        if isinstance(other, Expr | str):
            return [other] * len(self.states)
        if callable(other):
            return [other(i) for i in range(len(self.states))]
        items = list(other)
        if len(items) != len(self.states):
            raise ProgramError(f"{len(items)} expressions for {len(self.states)} forks")
        return items

    def join(
        self, mode: Literal["gather_variable", "concate_and_append"] = "gather_variable"
    ) -> None:
        """End the forks. Nothing waits here; reading what came of them does.

        "gather_variable": each variable that is new in the forks becomes a list in the state they came from.
        "concate_and_append": what the forks have appended follows in the state they came from, in their order.

        >>> @bw.function
        ... def compare(s: bw.State) -> None:
        ...     forks = s.fork(2)
        ...     forks += ["a:" + bw.gen("city"), "b:" + bw.gen("city")]
        ...     forks.join("concate_and_append")
        >>> compare.run().text()
        'a: Parisb: Tokyo'
        """
        branches = [state.branch for state in self.states]
        if mode == "gather_variable":
            self._source.gather(branches)
        elif mode == "concate_and_append":
            self._source.append_branches(branches)
        else:
            raise ProgramError(
                f"join mode {mode!r} is neither gather_variable nor concate_and_append"
            )
