"""A slot: the place in a branch that the model fills, from "asked" to its text, its value or its error."""

import codecs
from collections.abc import Callable
from types import CodeType
from typing import Any

from branchwork.lang.ir import Gen, Select
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import BranchworkError

Where = tuple[CodeType, int]
"""The author's line: kept as it is, and made into words only when something goes wrong."""


class Slot:
    """What one `gen` or `select` has come to so far. Written by its cursor, under the program's lock.

    `text` grows while tokens stream and is final once `done`. `samples` are the further answers of `gen(n=…)`.
    `said` takes out of the text what the branch goes on with, where that is not all of it.
    """

    __slots__ = (
        "_decoder",
        "_value",
        "_waiters",
        "backend",
        "done",
        "error",
        "expr",
        "logprobs",
        "result",
        "runs",
        "said",
        "samples",
        "text",
        "where",
        "wire_name",
    )

    def __init__(self, wire_name: str, expr: Gen | Select, where: Where | None) -> None:
        self.wire_name = wire_name
        self.expr = expr
        self.where = where
        self.backend: Backend | None = None
        self.text = ""
        self.done = False
        self.error: BranchworkError | None = None
        self.result: wire.Done | None = None
        self.runs: list[wire.Run] = []
        self.logprobs: list[wire.TokenLogprob] = []
        self.samples: list[Slot] = []
        self.said: Callable[[str], str] | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self._value: Any = _UNSET
        self._waiters: list[Callable[[], None]] = []

    def feed(self, event: wire.Tokens) -> None:
        """More of the answer has come."""
        if event.data:
            if self._decoder is None:
                self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self.text += self._decoder.decode(event.data)
        if event.runs:
            self.runs.extend(event.runs)
        if event.logprobs:
            self.logprobs.extend(event.logprobs)

    def finish(self, result: wire.Done, text: str | None = None) -> None:
        """The answer is complete; `text` where it is not the result's own (a caller's own choice)."""
        if not self.done:
            self.result = result
            self.text = result.text if text is None else text
            self._end()

    def fail(self, error: BranchworkError) -> None:
        """There will be no answer."""
        if not self.done:
            self.error = error
            self._end()

    def _end(self) -> None:
        self.done = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()

    def is_done(self) -> bool:
        """Whether the slot has ended, well or badly."""
        return self.done

    def when_done(self, waiter: Callable[[], None]) -> None:
        """Call `waiter` once when the slot ends, at once if it has. Hold the program's lock."""
        if self.done:
            waiter()
        else:
            self._waiters.append(waiter)

    @property
    def spoken(self) -> str:
        """The text that the branch goes on with."""
        return self.text if self.said is None else self.said(self.text)

    @property
    def failure(self) -> BranchworkError | None:
        """The error of the slot or of one of its samples."""
        return next((each.error for each in (self, *self.samples) if each.error is not None), None)

    @property
    def value(self) -> Any:
        """The value of an ended slot without failure: text, decoded object, Enum member, or a list of the samples'.

        Raises what the decoder raises (ValueError, TypeError) where the text does not decode.
        """
        if self._value is _UNSET:
            own = self._decode()
            self._value = [own, *(sample.value for sample in self.samples)] if self.samples else own
        return self._value

    def _decode(self) -> Any:
        if isinstance(self.expr, Select):
            if self.expr.values:
                return self.expr.values[self.expr.choices.index(self.text)]
            return self.text
        decode = self.expr.hole.decode
        return self.spoken if decode is None else decode(self.spoken)

    def __repr__(self) -> str:
        state = "failed" if self.error else "done" if self.done else "open"
        return f"Slot({self.wire_name!r}, {state})"


_UNSET = object()
