"""How a family of models writes a tool call: the grammar that holds it to the tools, and the reader of its text.

Hermes and Qwen write `<tool_call>` around an object, Llama 3 the bare object, Mistral a list after `[TOOL_CALLS]`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from branchwork.runtime.wire.messages import JsonSchema, StructuralTags, Tag

Kind = Literal["content", "reasoning", "call", "arguments"]


class Piece(NamedTuple):
    """Part of an answer: a text, a call's name, or more of a call's arguments. `call` numbers the calls."""

    kind: Kind
    text: str
    call: int = 0


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool the model may call; `parameters` is the JSON text of its schema."""

    name: str
    parameters: str
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """What stands around a call: `begin` name `middle` arguments `end`.

    A text that holds an `opener` goes on as calls; `kept` of it is already part of the first object. `anywhere`
    says whether text may come before it. `prompt` is written before a forced call (a special token: no grammar
    over bytes can demand it).
    """

    begin: str
    middle: str
    end: str
    trigger: str
    openers: tuple[tuple[str, str], ...]
    closer: str = ""
    anywhere: bool = False
    several: bool = False
    prompt: str = ""

    def constraint(self, tools: Sequence[ToolSpec], forced: bool, parallel: bool) -> StructuralTags:
        """Calls of these tools alone, with arguments under their schemas; `forced`: calls and nothing else."""
        tags = tuple(
            Tag(
                self.begin + _inside_string(tool.name) + self.middle,
                JsonSchema(tool.parameters, "strict" if tool.strict else "best_effort"),
                self.end,
            )
            for tool in tools
        )
        return StructuralTags(
            tags,
            (self.trigger,),
            at_least_one=forced,
            only_tags=forced,
            stop_after_first=not (parallel and self.several),
        )


def _inside_string(text: str) -> str:
    return msgspec.json.encode(text).decode()[1:-1]


FORMATS = {
    "hermes": ToolFormat(
        begin='<tool_call>\n{"name": "',
        middle='", "arguments": ',
        end="}\n</tool_call>",
        trigger="<tool_call>",
        openers=(("<tool_call>", ""),),
        closer="</tool_call>",
        anywhere=True,
        several=True,
    ),
    "llama3": ToolFormat(
        begin='{"name": "',
        middle='", "parameters": ',
        end="}",
        trigger='{"name": "',
        openers=(("<|python_tag|>", ""), ('{"name": "', '{"name": "')),
    ),
    "mistral": ToolFormat(
        begin='[{"name": "',
        middle='", "arguments": ',
        end="}]",
        trigger='[{"name": "',
        openers=(("[TOOL_CALLS]", ""), ('[{"name": "', '[{"name": "')),
        prompt="[TOOL_CALLS]",
    ),
}


def format_of(chat_template: str) -> ToolFormat:
    """The format a chat template teaches.

    Where it knows no tools, the model is not shown them, but a call that is required is written and read all the same:
    in the commonest form.
    """
    if "[TOOL_CALLS]" in chat_template:
        return FORMATS["mistral"]
    if '"parameters"' in chat_template and "ipython" in chat_template:
        return FORMATS["llama3"]
    return FORMATS["hermes"]


_HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:')


class CallReader:
    """Reads one object `{"name": …, "arguments": …}` as it arrives; `done` at its closing brace."""

    def __init__(self) -> None:
        self.done = False
        self.named = False
        self._text: list[str] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._where: Literal["head", "arguments", "tail"] = "head"
        self._arguments_begun = False

    def feed(self, text: str, call: int) -> tuple[int, list[Piece]]:
        """How many characters belong to the object, and what they say."""
        pieces: list[Piece] = []
        arguments: list[str] = []
        used = 0
        for char in text:
            used += 1
            closes_value = self._depth == 1 and not self._in_string and char in ",}"
            if self._where == "arguments" and closes_value:
                self._where = "tail"
            self._step(char)
            self._text.append(char)
            if self._where == "arguments" and (self._arguments_begun or not char.isspace()):
                self._arguments_begun = True
                arguments.append(char)
            elif self._where == "head" and char == ":" and self._depth == 1:
                pieces += self._name(call)
            if self._depth == 0:
                self.done = True
                break
        if arguments:
            pieces.append(Piece("arguments", "".join(arguments), call))
        if self.done and self._where == "head":
            pieces += self._whole(call)
        return used, pieces

    def _step(self, char: str) -> None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._in_string = False
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1

    def _name(self, call: int) -> list[Piece]:
        head = _HEAD.fullmatch("".join(self._text))
        if head is None or self._in_string:
            return []
        self._where = "arguments"
        self.named = True
        return [Piece("call", _decoded(head[1]) or "", call)]

    def _whole(self, call: int) -> list[Piece]:
        """The object's keys came in another order."""
        value = _decoded("".join(self._text))
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return []
        self.named = True
        arguments = value.get("arguments", value.get("parameters", {}))
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
        return [Piece("call", value["name"], call), Piece("arguments", text, call)]


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


class ToolReader:
    """Splits an answer into text and calls as it arrives; what may yet become a call is held back."""

    def __init__(self, form: ToolFormat) -> None:
        self.calls = 0
        self._form = form
        self._held = ""
        self._where: Literal["text", "between", "call"] = "text"
        self._reader = CallReader()
        self._text_begun = False

    def feed(self, text: str) -> list[Piece]:
        """What more of the answer says."""
        self._held += text
        pieces: list[Piece] = []
        while self._held:
            before = (self._where, len(self._held))
            step = {"text": self._in_text, "between": self._between, "call": self._in_call}
            pieces += step[self._where]()
            if before == (self._where, len(self._held)):
                break
        return pieces

    def end(self) -> list[Piece]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        if self._where == "text" and held and not (self.calls and held.isspace()):
            return [Piece("content", held)]
        return []

    def _in_text(self) -> list[Piece]:
        if self._form.anywhere or not self._text_begun:
            for opener, kept in self._form.openers:
                before, found, after = self._held.partition(opener)
                if found and (self._form.anywhere or not before.strip()):
                    self._held, self._where = kept + after, "between"
                    return self._content(before.rstrip() if self._text_begun else before.strip())
        free = len(self._held) - self._undecided()
        text, self._held = self._held[:free], self._held[free:]
        return self._content(text)

    def _content(self, text: str) -> list[Piece]:
        if not text:
            return []
        self._text_begun = True
        return [Piece("content", text)]

    def _undecided(self) -> int:
        """Length of the tail that may still become an opener, and of the blanks before it."""
        tail = 0
        if self._form.anywhere:
            tail = max(overlap(self._held, opener) for opener, _ in self._form.openers)
        elif not self._text_begun:
            start = self._held.lstrip()
            if any(opener.startswith(start) for opener, _ in self._form.openers):
                return len(self._held)
        kept = self._held[: len(self._held) - tail]
        return len(self._held) - len(kept.rstrip())

    def _between(self) -> list[Piece]:
        self._held = self._held.lstrip(" \r\n\t[];,")
        closer = self._form.closer
        if self._held.startswith("{"):
            self._where, self._reader = "call", CallReader()
        elif closer and self._held.startswith(closer):
            self._held, self._where = self._held[len(closer) :], "text"
        elif self._held and not closer.startswith(self._held):
            self._where = "text"
        return []

    def _in_call(self) -> list[Piece]:
        used, pieces = self._reader.feed(self._held, self.calls)
        self._held = self._held[used:]
        if self._reader.done:
            self._where = "between"
            self.calls += self._reader.named
        return pieces


def overlap(text: str, word: str) -> int:
    """Length of the longest tail of `text` that begins `word`."""
    for size in range(min(len(text), len(word) - 1), 0, -1):
        if word.startswith(text[-size:]):
            return size
    return 0
