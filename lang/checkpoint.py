"""A file of finished programs: a batch that was interrupted goes on where it stopped.

Each line is the JSON of one program that has ended well: what it was called with, in a digest, and what it said.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from branchwork.lang.branch import Branch
from branchwork.lang.driver import DIRECT
from branchwork.lang.holes import of_type
from branchwork.lang.ir import Const
from branchwork.lang.options import Defaults
from branchwork.lang.program import Program
from branchwork.lang.run import Call
from branchwork.lang.state import State
from branchwork.lang.trace import Nowhere
from branchwork.lang.variable import Span
from branchwork.runtime.wire.errors import ProgramError
from branchwork.runtime.wire.messages import ChatFormat


class Value(msgspec.Struct):
    """A variable as it is kept; `type_name` is the class whose object it was, to be found again in the program."""

    value: Any
    type_name: str | None = None


class Finished(msgspec.Struct):
    """One line."""

    key: str
    text: str
    messages: list[tuple[str, str]]
    variables: dict[str, Value]
    ret_value: Any = None


class Checkpoint:
    """The finished programs of one file. Calls that are alike are told apart by how many came before."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = Lock()
        self._seen: dict[str, int] = {}
        self._finished: dict[str, Finished] = {}
        if self._path.exists():
            written = self._path.read_bytes()
            if written and not written.endswith(b"\n"):
                with self._path.open("ab") as out:
                    out.write(b"\n")  # what is written next must not go on in a torn line
            for line in written.splitlines():
                try:
                    found = msgspec.json.decode(line, type=Finished)
                except msgspec.DecodeError:
                    continue  # the line that was being written when the program was killed
                self._finished[found.key] = found

    def key_of(self, call: Call) -> str:
        """What the call is known by. Raises ProgramError for arguments that are no JSON."""
        try:
            said = json.dumps([call.name, msgspec.to_builtins(call.kwargs)], sort_keys=True)
        except TypeError as error:
            raise ProgramError(
                f"checkpoint: the arguments of {call.name} cannot be written: {error}"
            ) from None
        digest = hashlib.sha256(said.encode()).hexdigest()[:32]
        number = self._seen[digest] = self._seen.get(digest, 0) + 1
        return f"{digest}-{number}"

    def restored(self, key: str, call: Call) -> State | None:
        """The state that the program ended with, if it has."""
        found = self._finished.get(key)
        return None if found is None else _restored(found, call)

    def save(self, key: str, state: State) -> None:
        """Note a program that has ended well."""
        branch = state.branch
        finished = Finished(
            key,
            state.text(),
            [(each["role"], each["content"]) for each in state.messages()],
            {name: _kept(state, name) for name in branch.variables},
            _plain(state.ret_value, "the return value"),
        )
        line = msgspec.json.encode(finished) + b"\n"
        with self._lock, self._path.open("ab") as out:
            out.write(line)


class Resumed:
    """A batch without what its checkpoint holds. As `branchwork.lang.batch.Fresh`."""

    def __init__(self, calls: Sequence[Call], path: str | Path) -> None:
        self._checkpoint = Checkpoint(path)
        self._keys = [self._checkpoint.key_of(call) for call in calls]
        found = [
            self._checkpoint.restored(key, call)
            for key, call in zip(self._keys, calls, strict=True)
        ]
        self._restored = found
        self._places = [i for i, state in enumerate(found) if state is None]
        self.todo = [calls[i] for i in self._places]

    def save(self, place: int, state: State) -> None:
        """Note the program at that place of `todo`."""
        self._checkpoint.save(self._keys[self._places[place]], state)

    def merged(self, states: Iterable[State]) -> Iterator[State]:
        """The states of all calls, in order, given those of `todo`."""
        fresh = iter(states)
        for state in self._restored:
            yield next(fresh) if state is None else state


def _kept(state: State, name: str) -> Value:
    value = state[name]
    type_name = type(value).__qualname__ if type(value).__module__ != "builtins" else None
    return Value(_plain(value, f"the variable {name!r}"), type_name)


def _plain(value: Any, what: str) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    try:
        return msgspec.to_builtins(value)
    except TypeError as error:
        raise ProgramError(f"checkpoint: {what} cannot be written: {error}") from None


def _restored(found: Finished, call: Call) -> State:
    backend = Nowhere(ChatFormat({}, {}))
    branch = Branch(Program(call.name, backend, Defaults({}), DIRECT))
    branch.pieces.append(Const(found.text))
    branch.messages = [(role, Span([Const(content)])) for role, content in found.messages]
    branch.variables = {name: _revived(kept, call) for name, kept in found.variables.items()}
    branch.ended = branch.program.ended = True
    state = State(branch)
    state.ret_value = found.ret_value
    return state


def _revived(kept: Value, call: Call) -> Any:
    """An object of the class that the program calls by that name; plain values where there is none."""
    if kept.type_name is None:
        return kept.value
    type_ = call.body.__globals__.get(kept.type_name) or _in_closure(call, kept.type_name)
    if not isinstance(type_, type):
        return kept.value
    decode = of_type(type_).decode
    text = kept.value if isinstance(kept.value, str) else json.dumps(kept.value)
    return kept.value if decode is None else decode(text)


def _in_closure(call: Call, name: str) -> Any:
    cells = call.body.__closure__ or ()
    names = dict(zip(call.body.__code__.co_freevars, cells, strict=True))
    short = name.rpartition(".")[2]
    return names[short].cell_contents if short in names else None
