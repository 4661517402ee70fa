"""A runtime process without a model: real io loop, engine, scheduler, cache and grammars over `MockRunner`.

`python -m branchwork.runtime.mock_service`, by `branchwork.testing.mock_runtime()`. What it writes is the same
nonsense for the same tokens, whatever is cached, chunked or shared; constraints are held.
"""

from collections.abc import Sequence

from branchwork.runtime.io.passages import Passage
from branchwork.runtime.io.reception import welcome
from branchwork.runtime.io.router import bind
from branchwork.runtime.mock import MockRunner, MockTokenizer, mock_vocabulary
from branchwork.runtime.process import Report, boot
from branchwork.runtime.service import Service
from branchwork.runtime.wire.config import RuntimeConfig
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

    def encode(self, texts: Sequence[Passage | Chat], at_start: bool) -> tuple[int, ...]:
        """The tokens of the joined texts."""
        return self._tokenizer.encode_bytes("".join(map(_text, texts)).encode())


def _text(text: Passage | Chat) -> str:
    if isinstance(text, Passage):
        return text.text
    return "".join(f"{message.role}: {message.content}\n" for message in text.messages)


def ask(what: str, body: str) -> str:
    """As `runtime.desk.Desk.ask`; the mock vocabulary has no services."""
    raise InvalidParameter(f"there is no request {what!r}", "what")


def assemble(options: RuntimeConfig, report: Report) -> Service:
    """As `runtime.process.Assemble`."""
    vocabulary = mock_vocabulary()
    tokenizer = MockTokenizer(vocabulary)
    max_len = options.max_len or CONTEXT_LEN
    runner = MockRunner(vocabulary, options.kv_slots or NUM_SLOTS, options.max_rows, max_len)
    greeting = welcome(
        options,
        model="mock",
        checksum="",
        context_len=max_len,
        vocab_size=vocabulary.size,
        eos_ids=vocabulary.eos_ids,
        chat_format=FORMAT,
    )
    encoder = MockEncoder(tokenizer)
    return Service(options, bind(options), greeting, runner, vocabulary, tokenizer, encoder, ask)


if __name__ == "__main__":
    boot(assemble)
