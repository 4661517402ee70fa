"""POST /v1/messages: Anthropic's form of a chat, with its events and its tools."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from branchwork.runtime.server import answers
from branchwork.runtime.server.body import read_body
from branchwork.runtime.server.conversation import Conversation, tool_use, turns_of
from branchwork.runtime.server.errors import ApiError, anthropic_body
from branchwork.runtime.server.fields import (
    ChatTurn,
    Function,
    FunctionCall,
    Generating,
    JsonObject,
    Name,
    Part,
    Positive,
    Tool,
    ToolCall,
)
from branchwork.runtime.server.gateway import Attached, Gateway
from branchwork.runtime.server.generation import Generation
from branchwork.runtime.server.jobs import Answer
from branchwork.runtime.server.reasoning import AnswerReader
from branchwork.runtime.server.stream import Events, stream
from branchwork.runtime.server.tools import Piece
from branchwork.runtime.server.validate import decode, parse
from branchwork.runtime.wire.messages import Done, Tokens, Usage


class Block(msgspec.Struct):
    """One block of a message."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: JsonObject | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None


class Turn(msgspec.Struct):
    """One message."""

    role: str
    content: str | list[Block]


class AnthropicTool(msgspec.Struct):
    """A tool."""

    name: Name
    description: str | None = None
    input_schema: JsonObject | None = None
    type: str | None = None


class ToolChoice(msgspec.Struct):
    """Which tool must be called."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class CountRequest(Generating, kw_only=True):
    """POST /v1/messages/count_tokens, and what is common to it and to a message."""

    messages: Annotated[list[Turn], Meta(min_length=1)]
    system: str | list[Part] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: JsonObject | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """POST /v1/messages."""

    max_tokens: Positive
    stop_sequences: list[str] | None = None


async def messages(gateway: Gateway, request: Request) -> Response:
    """Answer one request. Raises ApiError."""
    ask = decode(await read_body(request, gateway.config), MessagesRequest)
    attached = gateway.serving(ask.model)
    if (ask.n or 1) > 1:
        raise ApiError("n: a message is one answer", param="n")
    conversation = conversation_of(gateway, ask)
    shape = Shape(conversation, attached)
    generation = _generation(ask, conversation, attached)
    if ask.stream:
        return await stream(gateway, request, [generation], MessageStream(shape))
    async with gateway.running(request, [generation]) as job:
        (answer,) = await job.answers()
    gateway.metrics.add_usage(answer.usage)
    return answers.json_response(shape.whole(answer))


async def count_tokens(gateway: Gateway, request: Request) -> Response:
    """The tokens of a prompt."""
    ask = decode(await read_body(request, gateway.config), CountRequest)
    gateway.serving(ask.model)
    found = await gateway.ask("tokenize", conversation_of(gateway, ask).rendering())
    return answers.json_response({"input_tokens": len(found["token_ids"])})


def conversation_of(gateway: Gateway, ask: CountRequest) -> Conversation:
    """The chat in plain values; a last message of the assistant begins the answer. Raises ApiError."""
    turns: list[ChatTurn] = []
    if ask.system:
        turns.append(ChatTurn("system", ask.system))
    for i, turn in enumerate(ask.messages):
        turns += _turns(turn, f"messages[{i}]")
    prefill = ""
    last = turns[-1]
    if last.role == "assistant" and not last.tool_calls:
        turns.pop()
        prefill = last.content if isinstance(last.content, str) else ""
    options: dict[str, Any] = {}
    if (ask.thinking or {}).get("type") == "disabled":
        options["enable_thinking"] = False
    return Conversation(turns_of(turns), _tool_use(gateway, ask), prefill, options)


def _turns(turn: Turn, at: str) -> list[ChatTurn]:
    """One of Anthropic's messages as OpenAI's: what tools gave comes first, as messages of their own."""
    if turn.role not in ("user", "assistant"):
        raise ApiError(f"{at}.role must be user or assistant", param=f"{at}.role")
    if isinstance(turn.content, str):
        return [ChatTurn(turn.role, turn.content)]
    found: list[ChatTurn] = []
    texts, calls = [], []
    for i, block in enumerate(turn.content):
        here = f"{at}.content[{i}]"
        if block.type == "text":
            texts.append(block.text or "")
        elif block.type == "tool_use" and block.name:
            calls.append(ToolCall(FunctionCall(block.name, block.input), block.id))
        elif block.type == "tool_result":
            found.append(ChatTurn("tool", _result(block, here), tool_call_id=block.tool_use_id))
        elif block.type not in ("thinking", "redacted_thinking"):
            raise ApiError(
                f"{here} is of type {block.type[:64]}: this model takes text only",
                param=here,
                code="unsupported_content",
            )
    if texts or calls or not found:
        found.append(ChatTurn(turn.role, "".join(texts), tool_calls=calls or None))
    return found


def _result(block: Block, at: str) -> str:
    if block.content is None or isinstance(block.content, str):
        return block.content or ""
    if any(each.type != "text" for each in block.content):
        raise ApiError(f"{at}.content: this model takes text only", param=f"{at}.content")
    return "".join(each.text or "" for each in block.content)


def _tool_use(gateway: Gateway, ask: CountRequest) -> Any:
    for i, tool in enumerate(ask.tools or ()):
        if tool.type not in (None, "custom"):
            raise ApiError(
                f"tools[{i}] is of type {tool.type[:64]}: this server runs no tools of its own",
                param=f"tools[{i}].type",
            )
    tools = [
        Tool("function", Function(tool.name, tool.description, tool.input_schema))
        for tool in ask.tools or ()
    ]
    choice: str | dict[str, Any] | None = None
    parallel = True
    if ask.tool_choice is not None:
        parallel = not ask.tool_choice.disable_parallel_tool_use
        choice = ask.tool_choice.type
        if choice == "tool":
            choice = {"type": "function", "name": ask.tool_choice.name or ""}
    config = gateway.config
    return tool_use(tools, choice, parallel, config.max_tools, config.max_schema_bytes)


def _generation(ask: MessagesRequest, conversation: Conversation, attached: Attached) -> Generation:
    if ask.stop_sequences is not None:
        ask.stop = ask.stop_sequences
    return conversation.generation(ask, attached, ask.max_tokens)


class Shape:
    """How one request's message is written."""

    def __init__(self, conversation: Conversation, attached: Attached) -> None:
        self.id = answers.new_id("msg_")
        self._conversation = conversation
        self._model = attached.model

    def reader(self) -> AnswerReader:
        """What splits the answer."""
        return self._conversation.reader(self._model) or AnswerReader(None)

    def body(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        """The message, with nothing said of its end."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model.name,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_body(Usage()),
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The message in one piece."""
        reader = self.reader()
        blocks: list[dict[str, Any]] = []
        for piece in [*reader.feed(answer.text), *reader.end()]:
            if piece.kind == "arguments":
                blocks[-1]["input"] += piece.text
            elif piece.kind == "call" or not blocks or blocks[-1]["type"] != _BLOCKS[piece.kind]:
                blocks.append(_block(piece))
            else:
                blocks[-1][_KEYS[piece.kind]] += piece.text
        called = False
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"], called = _arguments(block["input"]), True
        assert answer.done is not None
        return {
            **self.body(blocks),
            **stop_of(answer.done, called),
            **answers.warned(answer.done),
            "usage": usage_body(answer.usage),
        }


_BLOCKS = {"content": "text", "reasoning": "thinking", "call": "tool_use"}
_KEYS = {"content": "text", "reasoning": "thinking", "call": "input"}
_DELTAS = {
    "content": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "arguments": ("input_json_delta", "partial_json"),
}


def _block(piece: Piece) -> dict[str, Any]:
    if piece.kind == "call":
        return {
            "type": "tool_use",
            "id": answers.new_id("toolu_"),
            "name": piece.text,
            "input": "",
        }
    block = {"type": _BLOCKS[piece.kind], _KEYS[piece.kind]: piece.text}
    return {**block, "signature": ""} if piece.kind == "reasoning" else block


def _arguments(text: str) -> Any:
    """A call's arguments as an object; one that was cut short is an empty one."""
    try:
        value = parse(text.encode())
    except ApiError:
        return {}
    return value if isinstance(value, dict) else {}


def usage_body(usage: Usage) -> dict[str, int]:
    """Anthropic's usage: what was read from the cache is not part of the input."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
        "jumped_tokens": usage.jumped,
    }


def stop_of(done: Done, called: bool) -> dict[str, Any]:
    """Anthropic's words for the end of a message."""
    if done.reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if done.reason == "stop_string":
        return {"stop_reason": "stop_sequence", "stop_sequence": done.matched}
    return {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None}


class MessageStream:
    """Writes an answer's events as Anthropic's."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._reader = shape.reader()
        self._decoder = answers.decoder()
        self._begun = False
        self._called = False
        self._index = -1
        self._open: str | None = None
        self.usage = Usage()

    def write(self, events: Events) -> bytes:
        """The events of what came."""
        out = []
        if not self._begun:
            self._begun = True
            out.append(_event("message_start", {"message": self._shape.body([])}))
        for _, event in events:
            if isinstance(event, Tokens):
                text = self._decoder.decode(event.data)
                out += [self._piece(piece) for piece in self._reader.feed(text)]
            elif isinstance(event, Done):
                out.append(self._last(event))
        return b"".join(out)

    def _piece(self, piece: Piece) -> bytes:
        out = b""
        if piece.kind == "call":
            self._called = True
            return self._close() + self._start("tool_use", {**_block(piece), "input": {}})
        if piece.kind != "arguments" and self._open != _BLOCKS[piece.kind]:
            out = self._close()
            empty = _block(Piece(piece.kind, ""))
            out += self._start(_BLOCKS[piece.kind], empty)
        kind, key = _DELTAS[piece.kind]
        delta = {"index": self._index, "delta": {"type": kind, key: piece.text}}
        return out + _event("content_block_delta", delta)

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        self._index += 1
        self._open = kind
        return _event("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", {"index": self._index})

    def _last(self, done: Done) -> bytes:
        self.usage = done.usage
        pieces = self._reader.feed(self._decoder.decode(b"", final=True)) + self._reader.end()
        out = b"".join(self._piece(piece) for piece in pieces) + self._close()
        delta = {
            "delta": stop_of(done, self._called),
            "usage": usage_body(done.usage),
            **answers.warned(done),
        }
        return out + _event("message_delta", delta) + _event("message_stop", {})

    def error(self, error: ApiError) -> bytes:
        """An error in mid-stream."""
        return b"event: error\ndata: " + anthropic_body(error) + b"\n\n"

    def end(self) -> bytes:
        """Nothing: the last event was the end."""
        return b""


def _event(name: str, body: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (
        name.encode(),
        msgspec.json.encode({"type": name, **body}),
    )
