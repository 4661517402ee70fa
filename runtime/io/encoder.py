"""Texts and chats to tokens, as the model wants them: its tokenizer and its chat template in one."""

from collections.abc import Sequence
from pathlib import Path

from branchwork.runtime.io.chat_format import find_chat_format
from branchwork.runtime.io.chat_template import ChatTemplate, find_template
from branchwork.runtime.io.passages import Passage
from branchwork.runtime.io.tokenizer import Tokenizer, read_settings
from branchwork.runtime.wire.errors import RequestTooLong
from branchwork.runtime.wire.messages import Chat, ChatFormat

# A normalizer may join so many characters to one.
SHRINKING = 4


class ModelEncoder:
    """The `TextEncoder` of a model folder. A text that cannot be as few as `max_tokens` tokens is not tokenised."""

    def __init__(self, folder: Path, vocab_size: int, max_tokens: int) -> None:
        self.tokenizer = Tokenizer.load(folder, vocab_size)
        self._max_tokens = max_tokens
        longest = max(map(len, self.tokenizer.token_bytes), default=1)
        self._max_characters = max_tokens * longest * SHRINKING
        self.template = ChatTemplate(
            find_template(folder, read_settings(folder)),
            self.tokenizer.names,
            self.tokenizer.special_tokens,
        )

    @property
    def chat_format(self) -> ChatFormat:
        """The text around a message of each role."""
        return find_chat_format(self.render_text, self.tokenizer.names["bos_token"] or "")

    def encode(self, texts: Sequence[Passage | Chat], at_start: bool) -> tuple[int, ...]:
        """As `Tokenizer.encode`, with chats as the template writes them. Raises InvalidParameter where it does not."""
        passages: list[Passage] = []
        for text in texts:
            passages += self.render(text) if isinstance(text, Chat) else [text]
        size = sum(len(passage.text) for passage in passages)
        if size > self._max_characters:
            raise RequestTooLong(
                f"the text has {size} characters, the server holds {self._max_tokens} tokens "
                "(--max-len); shorten it"
            )
        return self.tokenizer.encode(passages, at_start) if passages else ()

    def render(self, chat: Chat) -> list[Passage]:
        """As `ChatTemplate.render`."""
        return self.template.render(chat)

    def render_text(self, chat: Chat) -> str:
        """The chat as one text."""
        return "".join(passage.text for passage in self.render(chat))
