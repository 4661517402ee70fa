"""The model's chat template: chats to text, in a sandbox, within bounds of time and size.

A template is a program that came with a model. It runs in Jinja's immutable sandbox, which keeps it from Python; its
loops and its texts are counted, which keeps it from running for ever. A special token written in a content stays text:
a mark stands in its place while the template runs.
"""

import json
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from branchwork.runtime.io.passages import Passage, SpecialTokens
from branchwork.runtime.wire.errors import InvalidParameter, ModelError
from branchwork.runtime.wire.messages import Chat

# Of CPU: on a busy machine a second of the clock would refuse what is cheap.
MAX_RENDER_S = 1.0
MAX_TEMPLATE_BYTES = 1 << 20
# How much longer than what went in a chat may come out.
MAX_ADDED_CHARACTERS = 4 << 20

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For models that bring no template: OpenAI's ChatML."""


class ChatTemplate:
    """One model's template; any thread may render it."""

    def __init__(
        self, source: str, names: Mapping[str, str | None], special_tokens: SpecialTokens
    ) -> None:
        if len(source) > MAX_TEMPLATE_BYTES:
            raise ModelError(f"the chat template is longer than {MAX_TEMPLATE_BYTES} bytes")
        self.source = source
        self._names = {name: text or "" for name, text in names.items()}
        self._special_tokens = special_tokens
        self._environment = _BoundedEnvironment()
        try:
            self._template = self._environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelError(f"the chat template cannot be read: {error}") from error

    def render(self, chat: Chat) -> list[Passage]:
        """The chat as text. Raises InvalidParameter (param "messages") where the template does not take it."""
        marks = _Marks(self._special_tokens)
        variables = marks.hide(
            {
                **msgspec.json.decode(chat.options, type=dict[str, Any]),
                "messages": [
                    {
                        "role": message.role,
                        "content": message.content,
                        **msgspec.json.decode(message.extra, type=dict[str, Any]),
                    }
                    for message in chat.messages
                ],
                "tools": msgspec.json.decode(chat.tools, type=list[Any]) or None,
            }
        )
        input_size = len(chat.tools) + sum(len(m.content) + len(m.extra) for m in chat.messages)
        variables = {**variables, **self._names}
        return marks.reveal(self._run(variables, chat.add_generation_prompt, input_size))

    def _run(self, variables: dict[str, Any], add_generation_prompt: bool, input_size: int) -> str:
        self._environment.start(MAX_ADDED_CHARACTERS + input_size)
        pieces, size = [], 0
        try:
            for piece in self._template.generate(
                variables, documents=None, add_generation_prompt=add_generation_prompt
            ):
                pieces.append(piece)
                size += len(piece)
                self._environment.check_size(size)
        except _OutOfBounds as error:
            raise InvalidParameter(str(error), "messages") from error
        except Exception as error:
            # A template may raise anything, for a chat that its author did not think of.
            sentence = str(error).partition("\n")[0][:200]
            raise InvalidParameter(
                f"the model's chat template does not take these messages: {sentence}", "messages"
            ) from error
        return "".join(pieces)


def find_template(folder: Path, settings: Mapping[str, Any]) -> str:
    """The template's source, from wherever the folder has it, else ChatML. Raises ModelError."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: {error}") from error
    value = settings.get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry for entry in value if isinstance(entry, Mapping)}
        value = named.get("default", {}).get("template")
    return value if isinstance(value, str) else CHATML


class _OutOfBounds(Exception):
    """A template has run for too long, or written too much."""


class _Marks:
    """Stand-ins for the special tokens in what users wrote, which no user can foresee.

    Digits, so that they survive what a template does to a text: upper case, JSON, escapes.
    """

    def __init__(self, special_tokens: SpecialTokens) -> None:
        self._special_tokens = special_tokens
        self._begin = f"#{secrets.randbits(96)}."
        self._end = "#"
        self._hidden: list[str] = []

    def hide(self, value: Any) -> Any:
        """The value, with marks in its texts, at any depth."""
        if isinstance(value, str):
            pieces = self._special_tokens.cut_out(value)
            if len(pieces) == 1:
                return value
            return "".join(
                self._mark(piece) if index % 2 else piece for index, piece in enumerate(pieces)
            )
        if isinstance(value, list):
            return [self.hide(entry) for entry in value]
        if isinstance(value, dict):
            return {self.hide(key): self.hide(entry) for key, entry in value.items()}
        return value

    def reveal(self, text: str) -> list[Passage]:
        """The rendered text in passages: what stood behind the marks is plain, the rest may name special tokens."""
        if not self._hidden:
            return [Passage(text, special=True)]
        first, *others = text.split(self._begin)
        passages = [Passage(first, special=True)]
        for other in others:
            number, _, rest = other.partition(self._end)
            passages += [Passage(self._hidden[int(number)]), Passage(rest, special=True)]
        return passages

    def _mark(self, name: str) -> str:
        self._hidden.append(name)
        return f"{self._begin}{len(self._hidden) - 1}{self._end}"


class _Bounds(threading.local):
    """Of the rendering on this thread."""

    deadline = 0.0
    max_size = 0


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with what chat templates expect; every turn of a loop and every joined text is counted."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationBlock, LoopControlExtension],
        )
        self._bounds = _Bounds()
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def start(self, max_size: int) -> None:
        """From here on this thread's time counts, and no text may grow beyond `max_size` characters."""
        self._bounds.deadline = time.thread_time() + MAX_RENDER_S
        self._bounds.max_size = max_size

    def tick(self) -> None:
        """Called at each turn of a loop."""
        if time.thread_time() > self._bounds.deadline:
            raise _OutOfBounds(f"the chat template takes more than {MAX_RENDER_S:g} s")

    def join(self, *parts: object) -> str:
        """Jinja's `~`."""
        text = "".join(map(str, parts))
        self.check_size(len(text))
        return text

    def check_size(self, size: int) -> None:
        """Bound any text or list."""
        if size > self._bounds.max_size:
            raise _OutOfBounds("the chat template writes much more than it was given")

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call, counted: recursive macros have no loop."""
        self.tick()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Python's operator, after a look at how much would come of it."""
        if operator == "+" and isinstance(left, str | list):
            self.check_size(len(left) + len(right))
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(other, int):
                    self.check_size(len(one) * other)
        elif operator == "**" or (operator == "%" and isinstance(left, str)):
            raise _OutOfBounds(f"the chat template uses {operator}, which may grow without bound")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        return tree


class _Counting(NodeTransformer):
    """Puts the environment's counters into a template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Each turn begins with a tick."""
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", []), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """`~` is joined where its size is seen."""
        self.generic_visit(node)
        return _call("join", node.nodes).set_lineno(node.lineno)


def _call(method: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None)


class _GenerationBlock(Extension):
    """`{% generation %} … {% endgeneration %}`: marks what the assistant wrote, for training; here its body is all."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements of the body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML; templates of models expect plain JSON.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
