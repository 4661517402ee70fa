"""A runtime process without a model: real io loop, engine, scheduler, cache and grammars over `MockRunner`.

`python -m branchwork.runtime.mock_service`, by `branchwork.testing.mock_runtime()`. What it writes is the same
nonsense for the same tokens, whatever is cached, chunked or shared; constraints are held.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from branchwork.runtime.config import RuntimeConfig
from branchwork.runtime.engine import Engine
from branchwork.runtime.grammar.compiler import GrammarCompiler
from branchwork.runtime.inbox import Control
from branchwork.runtime.io_loop import Host, IoLoop
from branchwork.runtime.mailbox import EventQueue, Mailbox
from branchwork.runtime.mock import MockRunner, MockTokenizer, mock_vocabulary
from branchwork.runtime.process import Report, boot
from branchwork.runtime.reception import welcome
from branchwork.runtime.router import bind
from branchwork.runtime.segments import Segment
from branchwork.runtime.wire.errors import InvalidParameter
from branchwork.runtime.wire.messages import Chat, ChatFormat

NUM_SLOTS = 65_536
CONTEXT_LEN = 4096
ROLES = ("system", "user", "assistant", "tool")
FORMAT = ChatFormat(begin={role: f"{role}: " for role in ROLES}, end=dict.fromkeys(ROLES, "\n"))


class MockEncoder:
    """Texts by the mock vocabulary; a chat is a line for each message."""

    def __init__(self, tokenizer: MockTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[Segment | Chat], at_start: bool) -> tuple[int, ...]:
        """The tokens of the joined texts."""
        return self._tokenizer.encode_bytes("".join(map(_text, texts)).encode())


def _text(text: Segment | Chat) -> str:
    if isinstance(text, Segment):
        return text.text
    return "".join(f"{message.role}: {message.content}\n" for message in text.messages)


class MockService:
    """As `runtime.service.Service`."""

    def __init__(self, options: RuntimeConfig) -> None:
        vocabulary = mock_vocabulary()
        tokenizer = MockTokenizer(vocabulary)
        max_len = options.max_len or CONTEXT_LEN
        runner = MockRunner(vocabulary, options.kv_slots or NUM_SLOTS, options.max_rows, max_len)
        self._mailbox, self._events = Mailbox(), EventQueue()
        self._compiler = GrammarCompiler(vocabulary, options)
        self._engine = Engine(options, runner, vocabulary, tokenizer, self._mailbox, self._events)
        host = Host(
            config=options,
            welcome=welcome(
                options,
                model="mock",
                checksum="",
                context_len=max_len,
                vocab_size=vocabulary.size,
                eos_ids=vocabulary.eos_ids,
                chat_format=FORMAT,
            ),
            encoder=MockEncoder(tokenizer),
            compiler=self._compiler,
            put=self._mailbox.put,
            steps=lambda: self._engine.steps,
            ask=self._ask,
        )
        self._router = bind(options)
        self._loop = IoLoop(host, self._router, self._events)
        self._failure: BaseException | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._router.address

    def run(self) -> None:
        """Serve until stopped. Raises what the engine died of."""
        threading.Thread(target=self._run_engine, name="engine", daemon=True).start()
        self._loop.run()
        if self._failure is not None:
            raise self._failure
        self._engine.stop()
        self._router.close()
        self._compiler.close()

    def stop(self, drain_s: float) -> None:
        """As `IoLoop.stop`."""
        self._loop.stop(drain_s)

    def _run_engine(self) -> None:
        try:
            self._engine.run()
        except BaseException as error:
            self._failure = error
            self._loop.stop(drain_s=0.0)

    def _ask(self, what: str, body: str) -> "Future[str]":
        if what not in ("stats", "flush_cache"):
            raise InvalidParameter(f"there is no request {what!r}", "what")
        reply: Future[str] = Future()
        self._mailbox.put([Control(what, reply)])
        return reply


def assemble(options: RuntimeConfig, report: Report) -> MockService:
    """As `runtime.process.Assemble`."""
    return MockService(options)


if __name__ == "__main__":
    boot(assemble)
