"""What a client may ask of the tokenizer and the template: handlers of `Request`, each from JSON text to JSON text."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from branchwork.runtime.io.encoder import ModelEncoder
from branchwork.runtime.io.passages import Passage
from branchwork.runtime.wire.errors import InvalidParameter
from branchwork.runtime.wire.messages import Chat, ChatMessage
from branchwork.runtime.wire.validate import Limits, check, check_token_ids

Body = TypeVar("Body")


class MessageBody(msgspec.Struct):
    """A `ChatMessage` as a JSON object."""

    role: str
    content: str
    extra: str = "{}"


class TokenizeBody(msgspec.Struct):
    """A text, or else the messages of a chat."""

    text: str = ""
    add_special_tokens: bool = True
    messages: tuple[MessageBody, ...] = ()
    tools: str = "[]"
    options: str = "{}"
    add_generation_prompt: bool = True


class DetokenizeBody(msgspec.Struct):
    """Ids of the vocabulary."""

    token_ids: tuple[int, ...]


class DetokenizeEachBody(msgspec.Struct):
    """Several runs of ids."""

    groups: tuple[tuple[int, ...], ...]


class Desk:
    """Answers requests."""

    def __init__(self, encoder: ModelEncoder, limits: Limits) -> None:
        self._encoder = encoder
        self._limits = limits
        self._handlers: dict[str, Callable[[str], str]] = {
            "tokenize": self._tokenize,
            "detokenize": self._detokenize,
            "detokenize_each": self._detokenize_each,
            "render": self._render,
            "tokenizer_info": self._tokenizer_info,
        }

    def ask(self, what: str, body: str) -> str:
        """The answer's body. Raises RequestError."""
        handler = self._handlers.get(what)
        if handler is None:
            raise InvalidParameter(f"there is no request {what!r}", "what")
        return handler(body)

    def _tokenize(self, body: str) -> str:
        asked = read_body(body, TokenizeBody)
        if asked.messages:
            token_ids = self._encoder.encode(self._passages(asked), True)
        else:
            token_ids = self._encoder.encode([Passage(asked.text)], True) if asked.text else ()
            bos = tuple(self._encoder.tokenizer.bos_ids)
            if not asked.add_special_tokens and token_ids[: len(bos)] == bos:
                token_ids = token_ids[len(bos) :]
        return _write({"token_ids": token_ids})

    def _detokenize(self, body: str) -> str:
        token_ids = read_body(body, DetokenizeBody).token_ids
        check_token_ids("token_ids", token_ids, self._limits)
        return _write({"text": self._encoder.tokenizer.decode(token_ids)})

    def _detokenize_each(self, body: str) -> str:
        groups = read_body(body, DetokenizeEachBody).groups
        for token_ids in groups:
            check_token_ids("groups", token_ids, self._limits)
        return _write({"texts": [self._encoder.tokenizer.decode(group) for group in groups]})

    def _render(self, body: str) -> str:
        return _write(
            {
                "text": "".join(
                    passage.text for passage in self._passages(read_body(body, TokenizeBody))
                )
            }
        )

    def _passages(self, asked: TokenizeBody) -> list[Passage]:
        messages = tuple(ChatMessage(m.role, m.content, m.extra) for m in asked.messages)
        chat = Chat(0, messages, asked.tools, asked.options, asked.add_generation_prompt)
        check(chat, self._limits)
        return self._encoder.render(chat)

    def _tokenizer_info(self, body: str) -> str:
        tokenizer = self._encoder.tokenizer
        return _write(
            {
                **tokenizer.names,
                "chat_template": self._encoder.template.source,
                "add_bos_token": bool(tokenizer.bos_ids),
            }
        )


def read_body(body: str, kind: type[Body]) -> Body:
    """The body of a `Request`. Raises InvalidParameter."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParameter(f"the request's body: {error}", "body") from error


def _write(value: Any) -> str:
    return msgspec.json.encode(value).decode()
