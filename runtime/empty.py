"""A runtime that answers at once: what the language and the wire cost by themselves.

It has the socket, the io loop and the validation of a real one; in place of model and engine, a slot's text is "x".
`python -m branchwork.runtime.empty`, by `launch(module="branchwork.runtime.empty")`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.grammar.stops import StopTable
from branchwork.runtime.inbox import (
    Choose,
    CloseBranch,
    EmbedBranch,
    FailBranch,
    Generate,
    Operation,
)
from branchwork.runtime.io.io_loop import Host, IoLoop
from branchwork.runtime.io.outlet import Outlet
from branchwork.runtime.io.passages import Passage
from branchwork.runtime.io.reception import welcome
from branchwork.runtime.io.router import bind
from branchwork.runtime.process import Report, boot
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import InvalidParameter
from branchwork.runtime.wire.messages import (
    Chat,
    ChatFormat,
    ChoiceScore,
    Closed,
    Constraint,
    Done,
    Event,
    Failed,
    Run,
    Tokens,
    Usage,
)

ROLES = ("system", "user", "assistant")


class ByteEncoder:
    """Each byte is a token."""

    def encode(self, texts: Sequence[Passage | Chat], at_start: bool) -> tuple[int, ...]:
        """The bytes of the joined texts; of a chat, of its contents."""
        return tuple(byte for text in texts for byte in _content(text).encode())


class NoCompiler:
    """Constraints are taken and not looked at."""

    def submit(self, constraint: Constraint) -> "Future[Grammar]":
        """A future that is never done."""
        return Future()

    def submit_stop(self, pattern: str) -> "Future[StopTable]":
        """Likewise."""
        return Future()


class EmptyEngine:
    """Answers each operation where it stands."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._steps = 0

    def steps(self) -> int:
        """Operations so far."""
        return self._steps

    def put(self, operations: Sequence[Operation]) -> None:
        """Answer the operations."""
        self._steps += len(operations)
        events = [answer for operation in operations for answer in answers(operation)]
        if events:
            self._outlet.send(events)

    def ask(self, what: str, body: str) -> str:
        """As `Host.ask`."""
        if what not in ("stats", "flush_cache"):
            raise InvalidParameter(f"there is no request {what!r}", "what")
        return "{}"


def _content(text: Passage | Chat) -> str:
    if isinstance(text, Passage):
        return text.text
    return "".join(message.content for message in text.messages)


def answers(operation: Operation) -> list[tuple[bytes, Event]]:
    """The events that end an operation's slot or branch."""
    events: list[Event] = []
    match operation:
        case Generate(key=key, gen=gen):
            usage = Usage(prompt=1, completion=1, sampled=1, steps=1)
            events.append(Tokens(key.branch, gen.slot, b"x", (Run("sampled", (120,)),)))
            events.append(Done(key.branch, gen.slot, "stop", "x", usage))
        case Choose(key=key, select=select):
            scores = tuple(ChoiceScore(text, 0.0, 0.0, ()) for text in select.choices)
            text = select.choices[0]
            events.append(Done(key.branch, select.slot, "selected", text, Usage(), scores=scores))
        case EmbedBranch(key=key, embed=embed):
            events.append(
                Done(key.branch, embed.slot, "embedded", "", Usage(), embedding=(1.0, 0.0))
            )
        case FailBranch(key=key, slot=str() as slot, code=code, message=message, param=param):
            events.append(Failed(key.branch, slot, code, message, param))
        case CloseBranch(key=key):
            events.append(Closed(key.branch))
        case _:
            return []
    return [(key.client, event) for event in events]


class EmptyRuntime:
    """As `runtime.process.Runtime`; another engine may stand in for the one that answers at once."""

    def __init__(
        self,
        options: RuntimeConfig,
        make_engine: Callable[[Outlet], EmptyEngine] = EmptyEngine,
    ) -> None:
        self._router = bind(options)
        outlet = Outlet(self._router)
        engine = make_engine(outlet)
        host = Host(
            config=options,
            welcome=welcome(
                options,
                model="empty",
                checksum="",
                context_len=1 << 20,
                vocab_size=256,
                eos_ids=(0,),
                chat_format=ChatFormat(
                    begin={role: f"{role}: " for role in ROLES}, end=dict.fromkeys(ROLES, "\n")
                ),
            ),
            encoder=ByteEncoder(),
            compiler=NoCompiler(),
            put=engine.put,
            steps=engine.steps,
            ask=engine.ask,
        )
        self._loop = IoLoop(host, self._router, outlet)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._router.address

    def run(self) -> None:
        """Serve until stopped."""
        self._loop.run()
        self._router.close()

    def stop(self, drain_s: float) -> None:
        """As `IoLoop.stop`."""
        self._loop.stop(drain_s)


def assemble(options: RuntimeConfig, report: Report) -> EmptyRuntime:
    """As `runtime.process.Assemble`."""
    return EmptyRuntime(options)


if __name__ == "__main__":
    boot(assemble)
