"""Recording a run to a file, and running it again from the file: the same answers, without the backend.

A slot is known by everything its branch said before it, so a recording can be replayed in any order, and by a
program that has changed elsewhere. The file begins with the model's chat format and adapters; then it has a line of
JSON for each slot: a digest of what came before, and the events that answered it. Prompts are not in it.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from branchwork.lang.testing.scripted import Scripted
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.backend import Backend, Listener
from branchwork.runtime.wire.errors import BranchworkError


class Head(msgspec.Struct):
    """What a program may want to know of the backend."""

    chat_format: wire.ChatFormat
    adapters: tuple[str, ...] = ()


class Line(msgspec.Struct):
    """One slot: its key, and the events as the wire writes them."""

    key: str
    events: list[Any]


class History:
    """A digest of what was said on a branch; how the text was cut into instructions makes no difference."""

    __slots__ = ("_digest",)

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    @staticmethod
    def of(opened: wire.Open, parent: "History | None") -> "History":
        """That of a new branch: its parent's, or one that begins with its adapter."""
        return parent.copy() if parent else History(hashlib.sha256(opened.adapter.encode()))

    def copy(self) -> "History":
        """For a fork."""
        return History(self._digest.copy())

    def add(self, instruction: wire.Instruction) -> None:
        """Something more was said or asked."""
        if isinstance(instruction, wire.Text):
            self._digest.update(instruction.text.encode())
            if instruction.token_ids:
                self._digest.update(repr(instruction.token_ids).encode())
        elif isinstance(instruction, wire.Gen | wire.Select):
            self._digest.update(b"\x00" + msgspec.json.encode(_plain(instruction)))
        elif isinstance(instruction, wire.Chat | wire.Embed):
            self._digest.update(
                b"\x00" + msgspec.json.encode(msgspec.structs.replace(instruction, branch=0))
            )

    @property
    def key(self) -> str:
        """The digest so far."""
        return str(self._digest.hexdigest()[:32])


def _plain(asked: wire.Gen | wire.Select) -> wire.Gen | wire.Select:
    """The instruction without what differs from run to run and changes no answer."""
    if isinstance(asked, wire.Gen):
        return msgspec.structs.replace(asked, branch=0, deadline_s=None, stream=False)
    return msgspec.structs.replace(asked, branch=0, deadline_s=None)


class Recorder:
    """A backend that passes everything on to another, and writes the answers to a file.

    >>> recorder = Recorder(Scripted({"city": " Rome"}), path)
    >>> capital.run(country="Italy", backend=recorder)["city"]
    ' Rome'
    >>> recorder.close()
    """

    def __init__(self, backend: Backend, path: str | Path) -> None:
        self._backend = backend
        self._out = Path(path).open("ab")  # noqa: SIM115  # closed by close()
        if self._out.tell() == 0:
            head = Head(backend.welcome.chat_format, backend.welcome.adapters)
            self._out.write(msgspec.json.encode(head) + b"\n")
        self._lock = Lock()
        self._histories: dict[wire.BranchId, History] = {}
        self._keys: dict[tuple[wire.BranchId, str], str] = {}
        self._events: dict[tuple[wire.BranchId, str], list[wire.SlotEvent]] = {}

    @property
    def welcome(self) -> wire.Welcome:
        """The other backend's."""
        return self._backend.welcome

    def new_branch(self, listener: Listener) -> wire.BranchId:
        """A branch whose events are written down on their way."""

        def note(event: wire.Event | BranchworkError) -> None:
            if isinstance(event, wire.Tokens | wire.Done | wire.Failed):
                self._note(event)
            listener(event)

        return self._backend.new_branch(note)

    def send(self, instructions: Sequence[wire.Instruction]) -> None:
        """Pass on, and keep in mind what each slot is asked after."""
        with self._lock:
            for instruction in instructions:
                self._follow(instruction)
        self._backend.send(instructions)

    def _follow(self, instruction: wire.Instruction) -> None:
        if isinstance(instruction, wire.Open):
            parent = (
                self._histories.get(instruction.parent) if instruction.parent is not None else None
            )
            self._histories[instruction.branch] = History.of(instruction, parent)
        elif isinstance(instruction, wire.Close | wire.Abort):
            self._histories.pop(instruction.branch, None)
        else:
            history = self._histories[instruction.branch]
            history.add(instruction)
            if isinstance(instruction, wire.Gen | wire.Select | wire.Embed):
                self._keys[(instruction.branch, instruction.slot)] = history.key

    def _note(self, event: wire.SlotEvent) -> None:
        slot = (event.branch, event.slot)
        with self._lock:
            events = self._events.setdefault(slot, [])
            events.append(event)
            if isinstance(event, wire.Done | wire.Failed):
                written = [msgspec.to_builtins(each) for each in self._events.pop(slot)]
                line = Line(self._keys.pop(slot), written)
                self._out.write(msgspec.json.encode(line) + b"\n")
                self._out.flush()

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """As the other backend."""
        return self._backend.wait(ready, timeout_s)

    def deliver_in_background(self) -> None:
        """As the other backend."""
        self._backend.deliver_in_background()

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        """As the other backend; not recorded."""
        return self._backend.request(what, body, timeout_s)

    def close(self) -> None:
        """Close the file; the other backend stays open."""
        self._out.close()


class Replayed(Scripted):
    """A backend that answers from a recording. What the recording does not hold fails its slot.

    Slots that were asked for several times after the same words answer in the order of the recording, and then
    with the last answer.

    >>> recorder = Recorder(Scripted({"city": " Rome"}), path)
    >>> state = capital.run(country="Italy", backend=recorder)
    >>> recorder.close()
    >>> capital.run(country="Italy", backend=Replayed(path))["city"]
    ' Rome'
    """

    def __init__(self, path: str | Path) -> None:
        first, *rows = Path(path).read_bytes().splitlines()
        head = msgspec.json.decode(first, type=Head)
        super().__init__(chat_format=head.chat_format, adapters=head.adapters)
        self._recorded: dict[str, list[list[wire.SlotEvent]]] = {}
        for row in rows:
            line = msgspec.json.decode(row, type=Line)
            events = [_event(each) for each in line.events]
            self._recorded.setdefault(line.key, []).append(events)
        self._histories: dict[wire.BranchId, History] = {}

    def _take(self, instruction: wire.Instruction) -> None:
        branch = instruction.branch
        if isinstance(instruction, wire.Open):
            parent = (
                self._histories.get(instruction.parent) if instruction.parent is not None else None
            )
            self._histories[branch] = History.of(instruction, parent)
        elif isinstance(instruction, wire.Gen | wire.Select) and branch in self._branches:
            self._histories[branch].add(instruction)
            self._repeat(instruction)
            return
        elif branch in self._histories:
            self._histories[branch].add(instruction)
        if not isinstance(instruction, wire.Text):
            super()._take(instruction)

    def _repeat(self, asked: wire.Gen | wire.Select) -> None:
        branch = self._branches[asked.branch]
        found = self._recorded.get(self._histories[asked.branch].key)
        if not found:
            message = "the recording holds no answer after these words; record again"
            return self._emit(
                branch, wire.Failed(asked.branch, asked.slot, "request_error", message)
            )
        events = found.pop(0) if len(found) > 1 else found[0]
        for event in events:
            self._emit(branch, msgspec.structs.replace(event, branch=asked.branch))


def _event(written: Any) -> wire.SlotEvent:
    return msgspec.convert(written, wire.Tokens | wire.Done | wire.Failed)
