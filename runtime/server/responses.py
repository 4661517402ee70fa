"""POST /v1/responses: OpenAI's newer form of a chat, with its events and a bounded memory of earlier answers."""

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from branchwork.runtime.server import answers
from branchwork.runtime.server.body import read_body
from branchwork.runtime.server.conversation import Conversation, text_of, tool_use, turns_of
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import (
    ChatTurn,
    Count,
    Function,
    FunctionCall,
    Generating,
    JsonObject,
    Name,
    NamedSchema,
    Part,
    Positive,
    ResponseFormat,
    Tool,
    ToolCall,
)
from branchwork.runtime.server.gateway import Attached, Gateway
from branchwork.runtime.server.generation import Generation
from branchwork.runtime.server.items import Event, OutputItems
from branchwork.runtime.server.jobs import Answer
from branchwork.runtime.server.reasoning import AnswerReader
from branchwork.runtime.server.stream import Events, stream
from branchwork.runtime.server.tools import Piece
from branchwork.runtime.server.validate import convert, decode
from branchwork.runtime.wire.messages import ChatMessage, Done, TokenLogprob, Tokens, Usage


class TextFormat(msgspec.Struct):
    """What the text must look like."""

    type: str
    name: str | None = None
    schema: JsonObject | bool | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct):
    """OpenAI's `text`."""

    format: TextFormat | None = None
    verbosity: str | None = None


class FunctionTool(msgspec.Struct, omit_defaults=True):
    """A tool, flat as this route writes it."""

    type: str
    name: Name | None = None
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ResponsesRequest(Generating, kw_only=True):
    """POST /v1/responses."""

    input: str | list[JsonObject]
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    previous_response_id: str | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: JsonObject | None = None
    top_logprobs: Count | None = None
    truncation: str | None = None
    include: list[str] | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    max_tool_calls: Positive | None = None


class InputItem(msgspec.Struct):
    """One item of the input: a message, a call, or what a call gave."""

    type: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    name: str | None = None
    call_id: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


LOGPROBS = "message.output_text.logprobs"
"""What `include` holds for them."""

UNSUPPORTED = {
    "background": "answers are not made in the background",
    "conversation": "use previous_response_id",
    "prompt": "this server stores no prompts",
}


async def responses(gateway: Gateway, request: Request) -> Response:
    """Answer one request. Raises ApiError."""
    ask = decode(await read_body(request, gateway.config), ResponsesRequest)
    attached = gateway.serving(ask.model)
    for name, instead in UNSUPPORTED.items():
        if getattr(ask, name):
            raise ApiError(f"{name} is not supported: {instead}", param=name)
    if (ask.n or 1) > 1:
        raise ApiError("n: a response is one answer", param="n")
    conversation = conversation_of(gateway, ask)
    shape = Shape(gateway, ask, conversation, attached)
    generation = _generation(ask, conversation, attached)
    if ask.stream:
        return await stream(gateway, request, [generation], ResponseStream(shape))
    async with gateway.running(request, [generation]) as job:
        (answer,) = await job.answers()
    gateway.metrics.add_usage(answer.usage)
    return answers.json_response(shape.finish(answer))


def conversation_of(gateway: Gateway, ask: ResponsesRequest) -> Conversation:
    """The earlier turns and the new ones. Raises ApiError."""
    before: tuple[ChatMessage, ...] = ()
    if ask.previous_response_id is not None:
        stored = gateway.responses.get(ask.previous_response_id, "previous_response_id")
        before = stored.turns
    new = (ChatMessage("user", ask.input),) if isinstance(ask.input, str) else _turns(ask.input)
    first = (ChatMessage("system", ask.instructions),) if ask.instructions else ()
    if not (before or new):
        raise ApiError("input must not be empty", param="input")
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(ask.tools or ())]
    config = gateway.config
    use = tool_use(
        tools, ask.tool_choice, ask.parallel_tool_calls, config.max_tools, config.max_schema_bytes
    )
    options = {}
    if isinstance(effort := (ask.reasoning or {}).get("effort"), str):
        options["reasoning_effort"] = effort
    return Conversation((*first, *before, *new), use, options=options)


def _turns(items: list[JsonObject]) -> tuple[ChatMessage, ...]:
    turns: list[ChatTurn] = []
    for i, raw in enumerate(items):
        item = convert(raw, InputItem, f"input[{i}]")
        if item.type in (None, "message"):
            turns.append(ChatTurn(item.role or "", item.content))
        elif item.type == "function_call":
            if item.name is None:
                raise ApiError(f"input[{i}].name is required", param=f"input[{i}].name")
            call = ToolCall(FunctionCall(item.name, item.arguments), item.call_id)
            if turns and turns[-1].role == "assistant":
                turns[-1].tool_calls = [*(turns[-1].tool_calls or ()), call]
            else:
                turns.append(ChatTurn("assistant", None, tool_calls=[call]))
        elif item.type == "function_call_output":
            text = text_of(item.output, f"input[{i}].output")
            turns.append(ChatTurn("tool", text, tool_call_id=item.call_id))
        elif item.type != "reasoning":
            raise ApiError(
                f"input[{i}] is of type {item.type[:64]}, which this server does not take",
                param=f"input[{i}].type",
            )
    return turns_of(turns, "input")


def _tool(tool: FunctionTool, at: str) -> Tool:
    if tool.type != "function" or tool.name is None:
        raise ApiError(f"{at} must be of type function, with a name", param=f"{at}.type")
    function = Function(tool.name, tool.description, tool.parameters, tool.strict)
    return Tool("function", function)


def _generation(
    ask: ResponsesRequest, conversation: Conversation, attached: Attached
) -> Generation:
    form = ask.text.format if ask.text else None
    if form is not None:
        if ask.response_format is not None:
            raise ApiError("give text.format or response_format, not both", param="text.format")
        schema = NamedSchema(schema=form.schema, strict=form.strict)
        ask.response_format = ResponseFormat(form.type, json_schema=schema)
    limits = attached.limits
    logprobs = None
    if _wants_logprobs(ask):
        logprobs = limits.logprobs(ask.top_logprobs or 0, "top_logprobs")
    return conversation.generation(ask, attached, ask.max_output_tokens, logprobs)


def _wants_logprobs(ask: ResponsesRequest) -> bool:
    return ask.top_logprobs is not None or LOGPROBS in (ask.include or ())


class Shape:
    """How one request wants its response written, and what is kept of it."""

    def __init__(
        self,
        gateway: Gateway,
        ask: ResponsesRequest,
        conversation: Conversation,
        attached: Attached,
    ) -> None:
        self.id = answers.new_id("resp_")
        self.items = OutputItems()
        self._gateway = gateway
        self._ask = ask
        self._conversation = conversation
        self._model = attached.model
        self._created = answers.now()

    def reader(self) -> AnswerReader | None:
        """What splits the answer."""
        return self._conversation.reader(self._model)

    def body(self, status: str, done: Done | None = None, thought: int = 0) -> dict[str, Any]:
        """The response as it stands."""
        ask = self._ask
        cut = done is not None and done.reason == "length"
        return {
            **(answers.warned(done) if done else {}),
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": ask.instructions,
            "max_output_tokens": ask.max_output_tokens,
            "model": self._model.name,
            "output": self.items.items if done else [],
            "parallel_tool_calls": ask.parallel_tool_calls is not False,
            "previous_response_id": ask.previous_response_id,
            "reasoning": ask.reasoning or {"effort": None, "summary": None},
            "store": ask.store is not False,
            "temperature": 1.0 if ask.temperature is None else ask.temperature,
            "text": msgspec.to_builtins(ask.text) if ask.text else {"format": {"type": "text"}},
            "tool_choice": ask.tool_choice or "auto",
            "tools": [msgspec.to_builtins(tool) for tool in ask.tools or ()],
            "top_logprobs": ask.top_logprobs or 0,
            "top_p": 1.0 if ask.top_p is None else ask.top_p,
            "truncation": ask.truncation or "disabled",
            "usage": _usage(done.usage, thought) if done else None,
            "user": ask.user,
            "metadata": ask.metadata or {},
        }

    def note(self, tokens: Sequence[TokenLogprob]) -> None:
        """Log-probabilities of what comes next."""
        if tokens:
            self.items.note(answers.chat_logprobs(tokens, self._ask.top_logprobs or 0)["content"])

    def finish(self, answer: Answer) -> dict[str, Any]:
        """The whole response, of an answer that came in one piece."""
        reader, text = self.reader(), answer.text
        pieces = [Piece("content", text)] if reader is None else [*reader.feed(text), *reader.end()]
        if [piece.kind for piece in pieces] == ["content"]:
            self.note(answer.logprobs)
        for piece in pieces:
            list(self.items.add(piece))
        list(self.items.close())
        assert answer.done is not None
        thought = self._conversation.thought_tokens(self._model, answer.steps)
        return self.complete(answer.done, thought)

    def complete(self, done: Done, thought: int) -> dict[str, Any]:
        """The whole response; it is kept, unless the request said otherwise."""
        cut = done.reason == "length"
        if cut and self.items.items:
            self.items.items[-1]["status"] = "incomplete"
        body = self.body("incomplete" if cut else "completed", done, thought)
        if self._ask.store is not False:
            # Instructions are those of one request; the next one brings its own.
            asked = self._conversation.turns[1 if self._ask.instructions else 0 :]
            self._gateway.responses.put(body, (*asked, *_turns(self.items.items)))
        return body


def _usage(usage: Usage, thought: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": thought, "jumped_tokens": usage.jumped},
        "total_tokens": usage.prompt + usage.completion,
    }


class ResponseStream:
    """Writes an answer's events as those of a response."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._reader = shape.reader()
        self._decoder = answers.decoder()
        self._number = 0
        self.usage = Usage()

    def write(self, events: Events) -> bytes:
        """The events of what came."""
        out = []
        if self._number == 0:
            for name in ("response.created", "response.in_progress"):
                out.append(self._event(name, {"response": self._shape.body("in_progress")}))
        for _, event in events:
            if isinstance(event, Tokens):
                self._shape.note(event.logprobs)
                out += self._told(self._decoder.decode(event.data), answers.num_tokens(event))
            elif isinstance(event, Done):
                out += self._told(self._decoder.decode(b"", final=True), last=True)
                out.append(self._last(event))
        return b"".join(out)

    def _told(self, text: str, num_tokens: int = 0, last: bool = False) -> list[bytes]:
        if self._reader is None:
            pieces = [Piece("content", text)] if text else []
        else:
            pieces = self._reader.feed(text, num_tokens)
            pieces += self._reader.end() if last else []
        events: list[Event] = [each for piece in pieces for each in self._shape.items.add(piece)]
        if last:
            events += self._shape.items.close()
        return [self._event(name, body) for name, body in events]

    def _last(self, done: Done) -> bytes:
        self.usage = done.usage
        thought = self._reader.thought_tokens if self._reader else 0
        body = self._shape.complete(done, thought)
        return self._event(f"response.{body['status']}", {"response": body})

    def _event(self, name: str, body: dict[str, Any]) -> bytes:
        number, self._number = self._number, self._number + 1
        text = msgspec.json.encode({"type": name, "sequence_number": number, **body})
        return b"event: " + name.encode() + b"\ndata: " + text + b"\n\n"

    def error(self, error: ApiError) -> bytes:
        """An error in mid-stream."""
        body = self._shape.body("failed")
        body["error"] = {"code": error.code, "message": error.message}
        return self._event("response.failed", {"response": body})

    def end(self) -> bytes:
        """Nothing: the last event was the end."""
        return b""


async def stored_response(gateway: Gateway, request: Request) -> Response:
    """A response that was kept."""
    return answers.json_response(gateway.responses.get(request.path_params["name"]).body)


async def delete_response(gateway: Gateway, request: Request) -> Response:
    """Forget a response."""
    name = request.path_params["name"]
    gateway.responses.remove(name)
    return answers.json_response({"id": name, "object": "response", "deleted": True})
