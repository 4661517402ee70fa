"""Tools as functions: their schema from the signature, and the loop that calls them.

Calls are written in the form that the Hermes and Qwen families of models are trained on: JSON between `<tool_call>`
tags, held to the tool's own schema; responses come back between `<tool_response>` tags.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import msgspec

from branchwork.lang.ir import Gen, Hole, RoleMark, Seq, expression
from branchwork.lang.roles import role
from branchwork.lang.state import AsyncState, State
from branchwork.runtime.wire.errors import ProgramError
from branchwork.runtime.wire.messages import ChatFormat, JsonSchema, StructuralTags, Tag

_CALL, _CALL_END = "<tool_call>\n", "\n</tool_call>"
_RESPONSE, _RESPONSE_END = "<tool_response>\n", "\n</tool_response>"


class Tool(msgspec.Struct, frozen=True):
    """A function that a model may call. `schema` is of its arguments; `arguments` decodes them."""

    name: str
    description: str
    schema: dict[str, Any]
    function: Callable[..., Any]
    arguments: type

    @property
    def signature(self) -> dict[str, Any]:
        """The tool as chat templates and APIs take it."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}

    def call(self, arguments: Any) -> str:
        """What the function returns, as JSON; an exception of its own becomes `{"error": …}`.

        Raises ProgramError where the arguments do not fit the signature.
        """
        try:
            given: Any = msgspec.convert(arguments, self.arguments)
        except msgspec.ValidationError as error:
            raise ProgramError(f"{self.name}: {error}") from None
        try:
            result = self.function(**msgspec.structs.asdict(given))
        except Exception as error:  # the model is told, and may try something else
            result = {"error": f"{type(error).__name__}: {error}"}
        return json.dumps(msgspec.to_builtins(result), ensure_ascii=False)


def tool(function: Callable[..., Any]) -> Tool:
    """A tool made from a function's signature and the first line of its docstring.

    Raises ProgramError for a parameter without a type, or with one that no schema can be derived from.
    """
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    hints = get_type_hints(function, include_extras=True)
    untyped = [name for name in names if name not in hints]
    if untyped:
        raise ProgramError(f"tool {function.__name__}: the parameter {untyped[0]} needs a type")
    values = function.__defaults__ or ()
    defaults = dict(
        zip(names[code.co_argcount - len(values) : code.co_argcount], values, strict=True)
    )
    defaults |= function.__kwdefaults__ or {}
    fields: list[Any] = [
        (name, hints[name], defaults[name]) if name in defaults else (name, hints[name])
        for name in names
    ]
    arguments = msgspec.defstruct(
        function.__name__, fields, kw_only=True, forbid_unknown_fields=True
    )
    try:
        schema = msgspec.json.schema(arguments)
    except TypeError as error:
        raise ProgramError(f"tool {function.__name__}: {error}") from None
    found = schema.pop("$defs")
    own = found.pop(function.__name__)
    own.pop("title", None)
    description = (function.__doc__ or "").strip().partition("\n")[0]
    return Tool(
        function.__name__,
        description,
        own | ({"$defs": found} if found else {}),
        function,
        arguments,
    )


def tool_prompt(tools: Sequence[Callable[..., Any]], text: str = "") -> str:
    """The words of a system message that offers `tools`, after the author's own `text`.

    >>> def weather(city: str) -> int:
    ...     "The temperature of a city"
    ...     return 21
    >>> "The temperature of a city" in bw.tool_prompt([weather])
    True
    """
    listed = "\n".join(json.dumps(tool(each).signature, ensure_ascii=False) for each in tools)
    before = f"{text}\n\n" if text else ""
    return (
        f"{before}You can call these tools:\n<tools>\n{listed}\n</tools>\nTo call a tool, answer with\n"
        '<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>'
    )


def tool_loop(
    s: State,
    tools: Sequence[Callable[..., Any]],
    name: str = "answer",
    *,
    max_steps: int = 8,
    **options: Any,
) -> str:
    """Let the model answer, calling `tools` as often as it asks to; the answer is also `s[name]`.

    The system message before should hold `tool_prompt(tools)`. `options` are those of `gen`. Raises ProgramError
    when there is no answer after `max_steps` messages of the model.

    >>> def weather(city: str) -> int:
    ...     "The temperature of a city"
    ...     return 21
    >>> @bw.function
    ... def assist(s: bw.State, request: str) -> str:
    ...     s += bw.system(bw.tool_prompt([weather])) + bw.user(request)
    ...     return bw.tool_loop(s, [weather])
    >>> assist.run(request="How warm is Lisbon?").ret_value
    '21 degrees'
    """
    known = {each.__name__: tool(each) for each in tools}
    for step in range(max_steps):
        slot = f"{name}_step_{step + 1}"
        s.append(_message(slot, known, options))
        text: str = s[slot]
        if _CALL.strip() not in text:
            s[name] = text.strip()
            return text.strip()
        s.append(_responses(text, known, s.chat_format))
    raise ProgramError(f"tool_loop: no answer after {max_steps} steps")


async def async_tool_loop(
    s: AsyncState,
    tools: Sequence[Callable[..., Any]],
    name: str = "answer",
    *,
    max_steps: int = 8,
    **options: Any,
) -> str:
    """As `tool_loop`, in an `async def` program. The tools are plain functions and should not block for long.

    >>> def weather(city: str) -> int:
    ...     "The temperature of a city"
    ...     return 21
    >>> @bw.function
    ... async def assist(s: bw.AsyncState, request: str) -> str:
    ...     s += bw.system(bw.tool_prompt([weather])) + bw.user(request)
    ...     return await bw.async_tool_loop(s, [weather])
    >>> asyncio.run(assist.arun(request="How warm is Lisbon?")).ret_value
    '21 degrees'
    """
    known = {each.__name__: tool(each) for each in tools}
    for step in range(max_steps):
        slot = f"{name}_step_{step + 1}"
        s.append(_message(slot, known, options))
        text: str = await s.get(slot)
        if _CALL.strip() not in text:
            s[name] = text.strip()
            return text.strip()
        s.append(_responses(text, known, s.chat_format))
    raise ProgramError(f"tool_loop: no answer after {max_steps} steps")


def _message(slot: str, known: dict[str, Tool], options: dict[str, Any]) -> Seq:
    tags = tuple(
        Tag(_CALL, JsonSchema(json.dumps(_call_schema(each))), _CALL_END) for each in known.values()
    )
    constraint = StructuralTags(tags, (_CALL.strip(),))
    own = {"max_tokens": 256, **options}
    return (
        RoleMark("assistant", "begin")
        + Gen(slot, own, Hole(constraint))
        + RoleMark("assistant", "end")
    )


def _call_schema(each: Tool) -> dict[str, Any]:
    arguments = dict(each.schema)
    definitions = arguments.pop("$defs", None)
    schema = {
        "type": "object",
        "properties": {"name": {"const": each.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    return schema | ({"$defs": definitions} if definitions else {})


def calls_in(text: str) -> list[dict[str, Any]]:
    """The calls that a message makes: each with "name" and "arguments". Raises ProgramError for one that is no JSON."""
    found = []
    for part in text.split(_CALL.strip())[1:]:
        written = part.partition(_CALL_END.strip())[0]
        try:
            found.append(json.loads(written))
        except ValueError:
            raise ProgramError(f"a tool call is not complete: {written.strip()[:60]}") from None
    return found


def _responses(text: str, known: dict[str, Tool], chat_format: ChatFormat) -> Seq:
    """What the called tools return, as messages."""
    parts: list[Seq] = []
    for call in calls_in(text):
        response = known[call["name"]].call(call["arguments"])
        as_tool = "tool" in chat_format.begin
        wrapped = _RESPONSE.strip() in chat_format.begin.get("tool", "")
        body = response if wrapped else f"{_RESPONSE}{response}{_RESPONSE_END}"
        parts.append(role("tool" if as_tool else "user", expression(body)))
    return Seq(tuple(part for each in parts for part in each.parts))
