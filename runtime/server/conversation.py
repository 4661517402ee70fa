"""A chat in plain values, whichever route it came by: turns, tools, how they may be used, and how the answer is held.

The routes of OpenAI (chat, responses) and Anthropic (messages) translate into `Conversation`; from here on there
is one way to the runtime, and one reader of what comes back.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from branchwork.runtime.server.constraints import Wanted
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import ChatTurn, Generating, Part, Tool, ToolCall
from branchwork.runtime.server.gateway import Attached
from branchwork.runtime.server.generation import Generation, Prompt, cache_salt
from branchwork.runtime.server.model import Model
from branchwork.runtime.server.reasoning import AnswerReader, after_thinking, count_thought
from branchwork.runtime.server.schemas import closed, of_arguments
from branchwork.runtime.server.tools import ToolFormat, ToolReader, ToolSpec
from branchwork.runtime.server.validate import parse
from branchwork.runtime.wire.messages import AnyOf, Chat, ChatMessage, FreeText, Text

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

# What the runtime itself gives to a template; a caller's variable must not stand in its place.
RESERVED = frozenset(
    ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "tokenize")
)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Which tools there are, and whether one must be called. `definitions` are what the template shows.

    Tools that may not be called are shown all the same: the chat's other turns had them, and a prompt that begins as
    theirs is found in the cache.
    """

    specs: tuple[ToolSpec, ...] = ()
    definitions: tuple[dict[str, Any], ...] = ()
    mode: Literal["none", "auto", "required"] = "none"
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is asked. `prefill` is the beginning of the answer, already given."""

    turns: tuple[ChatMessage, ...]
    tools: ToolUse = ToolUse()
    prefill: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    generation_prompt: bool = True

    def prompt(self, model: Model) -> Prompt:
        """The chat as instructions; the model's template is applied in the runtime."""
        chat = Chat(
            0,
            self.turns,
            tools=_json(self.tools.definitions),
            options=_json(self.options),
            add_generation_prompt=self.generation_prompt,
        )
        parts: list[Text | Chat] = [chat]
        if self.prefill:
            parts.append(Text(0, self.prefill))
        form = self._form(model)
        if form and form.prompt and self.tools.mode == "required":
            parts.append(Text(0, form.prompt, special=True))
        return Prompt(tuple(parts))

    def rendering(self) -> dict[str, Any]:
        """The body of the runtime's "render" and "tokenize" for this chat."""
        messages = [
            {"role": turn.role, "content": turn.content, "extra": turn.extra} for turn in self.turns
        ]
        return {
            "messages": messages,
            "tools": _json(self.tools.definitions),
            "options": _json(self.options),
            "add_generation_prompt": self.generation_prompt,
        }

    def held(self, model: Model, wanted: Wanted) -> Wanted:
        """What holds the answer: the request's own constraint, the tools, or both. Raises ApiError."""
        form = self._form(model)
        use = self.tools
        if use.mode == "required":
            if form is None:
                raise ApiError(
                    "this server writes no tool calls (--tool-format none)", param="tools"
                )
            return Wanted(form.constraint(use.specs, True, use.parallel), "tools")
        constraint = wanted.constraint
        if use.mode == "none" and use.definitions and constraint is None and model.tool_format:
            return Wanted(FreeText((model.tool_format.trigger,)), "tool_choice")
        if form is not None and constraint is None:
            return Wanted(form.constraint(use.specs, False, use.parallel), "tools")
        if form is not None and constraint is not None:
            # A call, or else an answer as it was asked for.
            constraint = AnyOf((form.constraint(use.specs, True, use.parallel), constraint))
        if constraint is not None and self.thinks(model):
            constraint = after_thinking(constraint, model.thought_begun)
        return Wanted(constraint, wanted.field)

    def generation(
        self,
        ask: Generating,
        attached: Attached,
        max_tokens: int | None,
        logprobs: int | None = None,
        n: int = 1,
    ) -> Generation:
        """What the runtime is asked; a thought comes by steps, so that its tokens can be counted. Raises ApiError."""
        limits, model = attached.limits, attached.model
        held = self.held(model, limits.reading(ask).wanted(ask))
        stepwise = bool(ask.stream) or self.thinks(model)
        return Generation(
            self.prompt(model),
            limits.gen(ask, max_tokens, held.constraint, logprobs, stepwise),
            n,
            cache_salt(ask.cache_salt),
            ask.priority or 0,
            held.field,
            ask.cache_pin_s or 0.0,
            model.adapter,
        )

    def reader(self, model: Model) -> AnswerReader | None:
        """What splits the answer into reasoning, text and calls; None where all of it is text."""
        form, thinks = self._form(model), self.thinks(model)
        if form is None and not thinks:
            return None
        return AnswerReader(ToolReader(form) if form else None, thinks, model.thought_begun)

    def thought_tokens(self, model: Model, steps: Iterable[tuple[bytes, int]]) -> int:
        """Tokens of the thought of a whole answer, by its steps."""
        reader = self.reader(model) if self.thinks(model) else None
        return 0 if reader is None else count_thought(steps, reader)

    def _form(self, model: Model) -> ToolFormat | None:
        return model.tool_format if self.tools.mode != "none" else None

    def thinks(self, model: Model) -> bool:
        """Whether a thought may stand before the answer; its tokens are counted as they come."""
        asked = self.options.get("enable_thinking") is not False
        return model.thinks and asked and self.tools.mode != "required"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def turns_of(messages: Sequence[ChatTurn], at: str = "messages") -> tuple[ChatMessage, ...]:
    """OpenAI's messages as the template's. Raises ApiError naming the message."""
    return tuple(_turn(message, f"{at}[{i}]") for i, message in enumerate(messages))


def _turn(message: ChatTurn, at: str) -> ChatMessage:
    role = ROLES.get(message.role)
    if role is None:
        raise ApiError(f"{at}.role must be one of {', '.join(ROLES)}", param=f"{at}.role")
    extra: dict[str, Any] = {}
    if message.name is not None:
        extra["name"] = message.name
    if message.tool_call_id is not None:
        extra["tool_call_id"] = message.tool_call_id
    if message.reasoning_content is not None:
        extra["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        extra["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.content is None and not (message.tool_calls or role == "assistant"):
        raise ApiError(f"{at}.content is required", param=f"{at}.content")
    return ChatMessage(role, text_of(message.content, f"{at}.content"), _json(extra))


def _call(call: ToolCall) -> dict[str, Any]:
    """A past call; templates want its arguments as an object, clients send them as JSON text."""
    arguments: Any = call.function.arguments
    if isinstance(arguments, str):
        with contextlib.suppress(ApiError):
            arguments = parse(arguments.encode())
    function = {"name": call.function.name, "arguments": {} if arguments is None else arguments}
    return {"id": call.id, "type": "function", "function": function}


def text_of(content: str | list[Part] | None, at: str) -> str:
    """The words of a content. Raises ApiError naming a part that is no text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for i, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in ("text", "input_text", "output_text", "refusal"):
            raise ApiError(
                f"{at}[{i}] is of type {part.type[:64]}: this model takes text only",
                param=f"{at}[{i}]",
                code="unsupported_content",
            )
        if text is None:
            missing = f"{at}[{i}].text"
            raise ApiError(f"{missing} is required", param=missing, code="missing_parameter")
        texts.append(text)
    return "".join(texts)


def tool_use(
    tools: Sequence[Tool] | None,
    choice: str | dict[str, Any] | None,
    parallel: bool | None,
    max_tools: int,
    max_schema_bytes: int,
) -> ToolUse:
    """OpenAI's `tools` and `tool_choice`. Raises ApiError."""
    tools = tools or ()
    if len(tools) > max_tools:
        raise ApiError(
            f"tools has {len(tools)} entries, the server takes {max_tools} (--max-tools)",
            param="tools",
        )
    specs = []
    for i, tool in enumerate(tools):
        if tool.type != "function" or tool.function is None:
            raise ApiError(f"tools[{i}] must be of type function", param=f"tools[{i}].type")
        specs.append(tool_spec(tool, f"tools[{i}]", max_schema_bytes))
    if len({spec.name for spec in specs}) < len(specs):
        raise ApiError("tools: two have the same name", param="tools")
    mode, names = _chosen(choice, "auto" if specs else "none")
    definitions = tuple(msgspec.to_builtins(tool) for tool in tools)
    if mode == "none":
        return ToolUse(definitions=definitions)
    for name in names or ():
        if name not in {spec.name for spec in specs}:
            raise ApiError(
                f"tool_choice names {name[:64]}, which is not in tools", param="tool_choice"
            )
    if not specs:
        raise ApiError("tool_choice needs tools", param="tool_choice")
    kept = tuple(spec for spec in specs if names is None or spec.name in names)
    return ToolUse(kept, definitions, mode, parallel is not False and names is None)


def tool_spec(tool: Tool, at: str, max_schema_bytes: int) -> ToolSpec:
    """One function, with the schema of its arguments as JSON text. Raises ApiError."""
    function = tool.function
    assert function is not None
    schema = of_arguments(function.parameters)
    if schema is None:
        raise ApiError(
            f"{at}.function.parameters must be a schema of type object: arguments have names",
            param=f"{at}.function.parameters",
        )
    text = _json(schema)
    if len(text) > max_schema_bytes:
        raise ApiError(
            f"{at}.function.parameters has {len(text)} bytes, the server takes {max_schema_bytes} "
            "(--max-schema-bytes)",
            param=f"{at}.function.parameters",
            code="too_large",
        )
    return ToolSpec(function.name, _json(closed(schema)), bool(function.strict))


def _chosen(
    choice: str | dict[str, Any] | None, default: Literal["none", "auto"]
) -> tuple[Literal["none", "auto", "required"], tuple[str, ...] | None]:
    """The mode, and the names that may be called (None: all)."""
    match choice:
        case None:
            return default, None
        case "auto":
            return default, None
        case "none":
            return "none", None
        case "required" | "any":
            return "required", None
        case {"type": "function", "function": {"name": str(name)}}:
            return "required", (name,)
        case {"type": "function", "name": str(name)}:
            return "required", (name,)
        case {"type": "allowed_tools", "allowed_tools": {"mode": str(mode), "tools": list(tools)}}:
            names = tuple(_chosen(tool, default)[1] or () for tool in tools)
            return _chosen(mode, default)[0], tuple(name for each in names for name in each)
    raise ApiError(
        "tool_choice must be none, auto, required, or name a function of tools", param="tool_choice"
    )


def options_of(given: dict[str, Any] | None) -> dict[str, Any]:
    """A caller's template variables. Raises ApiError where one would hide what the runtime itself gives."""
    for name in given or ():
        if name in RESERVED or "template" in name or not name.isidentifier():
            raise ApiError(
                f"chat_template_kwargs.{name[:64]} is not a variable that a request may set",
                param="chat_template_kwargs",
            )
    return dict(given or {})
