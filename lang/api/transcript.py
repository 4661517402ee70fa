"""What was said on a branch, in the two forms in which APIs take it: one text, or a list of messages."""

import re
from collections.abc import Iterable
from typing import Self

import msgspec

from branchwork.runtime.wire.messages import ChatFormat, Text

ROLES = ("system", "user", "assistant", "tool")

# Only texts marked `special` are looked at for these, so no word of a user's can end a message.
CHAT_FORMAT = ChatFormat(
    begin={role: f"<|im_start|>{role}\n" for role in ROLES},
    end=dict.fromkeys(ROLES, "<|im_end|>\n"),
)
_MARKUP = re.compile(r"<\|im_start\|>(\w+)\n|(<\|im_end\|>\n)")


class Message(msgspec.Struct):
    """One message of a chat; `open` while more may be appended."""

    role: str
    content: str
    open: bool = False


class Transcript:
    """The texts of a branch so far. `outside` is what was said before, between or after messages."""

    __slots__ = ("messages", "outside", "prompt")

    def __init__(
        self, messages: Iterable[Message] = (), prompt: str = "", outside: str = ""
    ) -> None:
        self.messages = [Message(each.role, each.content, each.open) for each in messages]
        self.prompt = prompt
        self.outside = outside

    def copy(self) -> Self:
        """A transcript that goes its own way."""
        return type(self)(self.messages, self.prompt, self.outside)

    def add(self, text: Text) -> None:
        """A text of the program: words, or the marks of a message."""
        if not text.special:
            return self.say(text.text)
        at = 0
        for mark in _MARKUP.finditer(text.text):
            self.say(text.text[at : mark.start()])
            at = mark.end()
            self.prompt += mark.group()
            if mark.group(1):
                self.messages.append(Message(mark.group(1), "", open=True))
            elif self.messages:
                self.messages[-1].open = False
        self.say(text.text[at:])

    def say(self, words: str) -> None:
        """Words of whoever's message is open."""
        self.prompt += words
        if self.messages and self.messages[-1].open:
            self.messages[-1].content += words
        else:
            self.outside += words

    @property
    def begun(self) -> str:
        """What the model's open message says already."""
        last = self.messages[-1] if self.messages else None
        return last.content if last is not None and last.open and last.role == "assistant" else ""
