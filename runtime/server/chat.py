"""POST /v1/chat/completions: a chat under the model's own template, with tools and reasoning read apart."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from branchwork.runtime.server import answers
from branchwork.runtime.server.body import read_body
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.conversation import (
    Conversation,
    options_of,
    text_of,
    tool_use,
    turns_of,
)
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import ChatRequest
from branchwork.runtime.server.gateway import Attached, Gateway
from branchwork.runtime.server.generation import Generation, Limits
from branchwork.runtime.server.jobs import Answer, total_usage
from branchwork.runtime.server.reasoning import AnswerReader
from branchwork.runtime.server.stream import DONE, Events, data, error_data, stream
from branchwork.runtime.server.tools import Piece
from branchwork.runtime.server.validate import decode
from branchwork.runtime.wire.messages import Done, Tokens, Usage

UNSUPPORTED = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "audio": "this model speaks text only",
    "web_search_options": "this server searches nothing",
}


async def chat_completions(gateway: Gateway, request: Request) -> Response:
    """Answer one request. Raises ApiError."""
    ask = decode(await read_body(request, gateway.config), ChatRequest)
    attached = gateway.serving(ask.model)
    for name, instead in UNSUPPORTED.items():
        if getattr(ask, name) is not None:
            raise ApiError(f"{name} is not supported: {instead}", param=name)
    conversation = conversation_of(ask, gateway.config)
    generation = _generation(ask, conversation, attached)
    prompt_ids = None
    if ask.return_token_ids or ask.return_tokens:
        prompt_ids = await _prompt_ids(gateway, conversation)
    shape = Shape(ask, conversation, attached, generation.n, prompt_ids)
    if ask.stream:
        return await stream(gateway, request, [generation], ChatStream(shape))
    async with gateway.running(request, [generation]) as job:
        found = await job.answers()
    usage = total_usage([answer.usage for answer in found], generation.n)
    gateway.metrics.add_usage(usage)
    return answers.json_response(shape.whole(found, usage))


def conversation_of(ask: ChatRequest, config: ServerConfig) -> Conversation:
    """The chat in plain values. Raises ApiError."""
    messages = list(ask.messages)
    prefill = ""
    if ask.continue_final_message:
        if messages[-1].role != "assistant":
            raise ApiError(
                "continue_final_message needs a last message of the assistant",
                param="continue_final_message",
            )
        prefill = text_of(messages[-1].content, f"messages[{len(messages) - 1}].content")
        messages.pop()
    options = options_of(ask.chat_template_kwargs)
    if ask.reasoning_effort is not None:
        options.setdefault("reasoning_effort", ask.reasoning_effort)
    tools = tool_use(
        ask.tools,
        ask.tool_choice,
        ask.parallel_tool_calls,
        config.max_tools,
        config.max_schema_bytes,
    )
    return Conversation(
        turns_of(messages), tools, prefill, options, ask.add_generation_prompt is not False
    )


def _generation(ask: ChatRequest, conversation: Conversation, attached: Attached) -> Generation:
    limits = attached.limits
    max_tokens = ask.max_completion_tokens
    if max_tokens is None:
        max_tokens = ask.max_tokens
    return conversation.generation(
        ask, attached, max_tokens, _logprobs(ask, limits), limits.answers(ask.n)
    )


def _logprobs(ask: ChatRequest, limits: Limits) -> int | None:
    if ask.top_logprobs and not ask.logprobs:
        raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
    return limits.logprobs(ask.top_logprobs or 0, "top_logprobs") if ask.logprobs else None


async def _prompt_ids(gateway: Gateway, conversation: Conversation) -> list[int]:
    return list((await gateway.ask("tokenize", conversation.rendering()))["token_ids"])


@dataclass(slots=True)
class Message:
    """An assistant's message, put together from pieces."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, list[str]]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """The message's next piece."""
        if piece.kind == "content":
            self.content.append(piece.text)
        elif piece.kind == "reasoning":
            self.reasoning.append(piece.text)
        elif piece.kind == "call":
            self.calls.append((answers.new_id("call_"), piece.text, []))
        else:
            self.calls[piece.call][2].append(piece.text)

    def body(self) -> dict[str, Any]:
        """OpenAI's message."""
        content = "".join(self.content)
        body: dict[str, Any] = {
            "role": "assistant",
            "content": None if self.calls and not content else content,
            "refusal": None,
        }
        if self.reasoning:
            body["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            body["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(arguments)},
                }
                for call_id, name, arguments in self.calls
            ]
        return body


def read_message(text: str, reader: AnswerReader | None) -> Message:
    """A whole answer, taken apart."""
    message = Message()
    pieces = [Piece("content", text)] if reader is None else [*reader.feed(text), *reader.end()]
    for piece in pieces:
        message.add(piece)
    return message


class Shape:
    """How one request wants its answers written."""

    def __init__(
        self,
        ask: ChatRequest,
        conversation: Conversation,
        attached: Attached,
        n: int,
        prompt_ids: list[int] | None,
    ) -> None:
        self.id = answers.new_id("chatcmpl-")
        self.model = attached.model.name
        self.created = answers.now()
        self.n = n
        self.prompt_ids = prompt_ids
        self.top = (ask.top_logprobs or 0) if ask.logprobs else None
        self.include_usage = bool(ask.stream_options and ask.stream_options.include_usage)
        self.include_runs = bool(ask.stream_options and ask.stream_options.include_runs)
        self._attached = attached
        self._conversation = conversation

    def head(self, kind: str) -> dict[str, Any]:
        """What every object of the answer begins with."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def reader(self) -> AnswerReader | None:
        """A fresh reader of one answer."""
        return self._conversation.reader(self._attached.model)

    def whole(self, found: list[Answer], usage: Usage) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [self._whole_choice(index, answer) for index, answer in enumerate(found)]
        body = {
            **self.head("chat.completion"),
            "choices": choices,
            "usage": answers.usage_body(usage, self._thought(found)),
        }
        if self.prompt_ids is not None:
            body["prompt_token_ids"] = self.prompt_ids
        return body | answers.warned(*(answer.done for answer in found if answer.done))

    def _thought(self, found: list[Answer]) -> int:
        model = self._attached.model
        return sum(self._conversation.thought_tokens(model, answer.steps) for answer in found)

    def _whole_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message = read_message(answer.text, self.reader())
        choice: dict[str, Any] = {
            "index": index,
            "message": message.body(),
            "logprobs": None,
            "finish_reason": end_of(answer.reason, bool(message.calls)),
            "stop_reason": answer.matched,
        }
        if self.top is not None:
            choice["logprobs"] = answers.chat_logprobs(answer.logprobs, self.top)
        if self.prompt_ids is not None:
            choice["token_ids"] = answer.token_ids
        return choice


def end_of(reason: str, called: bool) -> str:
    """OpenAI's `finish_reason` of a chat answer."""
    reason = answers.finish_reason(reason)
    return "tool_calls" if called and reason == "stop" else reason


class ChoiceStream:
    """One choice of a stream, as the deltas it is made of."""

    def __init__(self, reader: AnswerReader | None) -> None:
        self.begun = False
        self.called = False
        self.decoder = answers.decoder()
        self._reader = reader

    @property
    def thought_tokens(self) -> int:
        """Tokens of the thought so far."""
        return self._reader.thought_tokens if self._reader else 0

    def deltas(self, text: str, num_tokens: int = 0, last: bool = False) -> list[dict[str, Any]]:
        """What more text says, of so many tokens."""
        if self._reader is None:
            return [{"content": text}] if text else []
        pieces = self._reader.feed(text, num_tokens)
        if last:
            pieces += self._reader.end()
        return [self._delta(piece) for piece in pieces]

    def _delta(self, piece: Piece) -> dict[str, Any]:
        if piece.kind == "content":
            return {"content": piece.text}
        if piece.kind == "reasoning":
            return {"reasoning_content": piece.text}
        if piece.kind == "arguments":
            return {"tool_calls": [{"index": piece.call, "function": {"arguments": piece.text}}]}
        self.called = True
        call = {
            "index": piece.call,
            "id": answers.new_id("call_"),
            "type": "function",
            "function": {"name": piece.text, "arguments": ""},
        }
        return {"tool_calls": [call]}


class ChatStream:
    """Writes a chat's events as OpenAI's chunks."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._usages: dict[int, Usage] = {}
        readers = [shape.reader() for _ in range(shape.n)]
        self._choices = [ChoiceStream(reader) for reader in readers]
        annotated = shape.top is not None or shape.prompt_ids is not None or shape.include_runs
        self._plain = not annotated and readers[0] is None
        head = b"data: " + msgspec.json.encode(shape.head("chat.completion.chunk"))[:-1]
        template = b'%s,"choices":[{"index":%d,"delta":{"content":'
        self._heads = [template % (head, index) for index in range(shape.n)]
        usage = b',"usage":null' if shape.include_usage else b""
        self._tail = b'},"logprobs":null,"finish_reason":null}]%s}\n\n' % usage

    @property
    def usage(self) -> Usage:
        """What the request cost so far."""
        usages = [self._usages.get(index, Usage()) for index in range(self._shape.n)]
        return total_usage(usages, self._shape.n)

    def write(self, events: Events) -> bytes:
        """The chunks of these events."""
        out = []
        for index, event in events:
            choice = self._choices[index]
            if not choice.begun:
                choice.begun = True
                out.append(self._role(index))
            if isinstance(event, Tokens):
                out.append(self._more(index, choice, event))
            elif isinstance(event, Done):
                out.append(self._last(index, choice, event))
        return b"".join(out)

    def _role(self, index: int) -> bytes:
        return self._chunk(index, {"role": "assistant", "content": ""})

    def _more(self, index: int, choice: ChoiceStream, event: Tokens) -> bytes:
        text = choice.decoder.decode(event.data)
        if self._plain:
            if not text:
                return b""
            return self._heads[index] + msgspec.json.encode(text) + self._tail
        deltas = choice.deltas(text, answers.num_tokens(event))
        extra = self._annotations(event)
        if extra and not deltas:
            deltas = [{}]
        chunks = [self._chunk(index, delta) for delta in deltas[1:]]
        return b"".join([self._chunk(index, deltas[0], **extra), *chunks]) if deltas else b""

    def _annotations(self, event: Tokens) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if self._shape.top is not None and event.logprobs:
            extra["logprobs"] = answers.chat_logprobs(event.logprobs, self._shape.top)
        if self._shape.prompt_ids is not None and event.runs:
            extra["token_ids"] = [id_ for run in event.runs for id_ in run.token_ids]
        if self._shape.include_runs and event.runs:
            extra["runs"] = answers.runs_body(event.runs)
        return extra

    def _last(self, index: int, choice: ChoiceStream, event: Done) -> bytes:
        self._usages[index] = event.usage
        deltas = choice.deltas(choice.decoder.decode(b"", final=True), last=True)
        chunks = [self._chunk(index, delta) for delta in deltas]
        reason = end_of(event.reason, choice.called)
        extra = answers.warned(event)
        last = self._chunk(index, {}, finish_reason=reason, stop_reason=event.matched, **extra)
        return b"".join([*chunks, last])

    def _chunk(self, index: int, delta: dict[str, Any], **extra: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **extra}
        body = {**self._shape.head("chat.completion.chunk"), "choices": [choice]}
        if self._shape.prompt_ids is not None and "role" in delta:
            body["prompt_token_ids"] = self._shape.prompt_ids
        if self._shape.include_usage:
            body["usage"] = None
        return data(body)

    def error(self, error: ApiError) -> bytes:
        """An error in mid-stream."""
        return error_data(error)

    def end(self) -> bytes:
        """The usage, if asked for, and the end."""
        if not self._shape.include_usage:
            return DONE
        head = self._shape.head("chat.completion.chunk")
        thought = sum(choice.thought_tokens for choice in self._choices)
        usage = answers.usage_body(self.usage, thought)
        return data({**head, "choices": [], "usage": usage}) + DONE
