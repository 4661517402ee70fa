"""The API reference, docs/api.md, from the docstrings: `python docs/make_api.py`.

Every public name stands there with its signature, what its docstring says, and its example. The examples are run by
`tests/docs/test_api.py`, after `SETTING`.
"""

import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import branchwork as bw
from branchwork import ChoicesSamplingMethod, Expr, testing
from branchwork.lang.group import Group
from branchwork.lang.options import RunOptions
from branchwork.runtime.wire import errors

PATH = Path(__file__).parent / "api.md"

SETTING = """\
import asyncio

import branchwork as bw
from branchwork.testing import Answer, Recorder, Replayed, Scripted, mock_runtime
from branchwork.runtime.wire.errors import InvalidParameter

call = '<tool_call>\\n{"name": "weather", "arguments": {"city": "Lisbon"}}\\n</tool_call>'
answers = {
    "city": lambda asked: " Tokyo" if asked.prompt.endswith(("Japan is", "1:", "b:")) else " Paris",
    "age": "36",
    "name": '"Ada"',
    "answer": "Fine.",
    "mood": " good",
    "person": '{"name": "Ada", "age": 36}',
    "thinking": "<think>2 and 2</think>4",
    "answer_step_1": call,
    "answer_step_2": "21 degrees",
}
bw.set_default_backend(Scripted(answers))


@bw.function
def capital(s: bw.State, country: str) -> None:
    s += "The capital of " + country + " is" + bw.gen("city")
"""

SECTIONS: dict[str, tuple[str, ...]] = {
    "Programs": ("function", "Function", "State", "AsyncState", "Group"),
    "Slots": ("gen", "gen_int", "gen_string", "select", "separate_reasoning", "image", "video"),
    "Messages": (
        *("system", "user", "assistant", "role"),
        *(
            f"{role}_{edge}"
            for role in ("system", "user", "assistant")
            for edge in ("begin", "end")
        ),
    ),
    "Expressions": ("Expr",),
    "Choices": (
        *("token_length_normalized", "greedy_token_selection"),
        *("unconditional_likelihood_normalized", "ChoicesDecision", "ChoicesSamplingMethod"),
    ),
    "Tools": ("tool_prompt", "tool_loop", "async_tool_loop"),
    "Backends": (
        *("Runtime", "connect", "set_default_backend", "with_adapter"),
        *("get_server_info", "flush_cache"),
        *("Engine", "RuntimeEndpoint", "OpenAI", "Anthropic", "LiteLLM", "global_config"),
    ),
    "Testing": ("Scripted", "Answer", "Asked", "Recorder", "Replayed", "mock_runtime"),
    "Errors": ("BranchworkError",),
}

MADE_BY_RUNNING = ("Function", "State", "AsyncState", "Group")
WITH_METHODS = ("Function", "State", "Group")
"""The classes that an author calls methods of; those of the others are for the language itself."""


def named(name: str) -> Any:
    """What a public name stands for."""
    if name == "Group":
        return Group  # what `fork` returns; nobody makes one
    return getattr(bw if name in bw.__all__ else testing, name)


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods of a class, its bases' own included, in the order in which they are written."""
    found = [each for each in reversed(cls.__mro__) if each.__module__.startswith("branchwork")]
    members = {name: getattr(cls, name) for each in found for name in vars(each)}
    for name, member in members.items():
        if not name.startswith("_") and inspect.isfunction(member):
            yield name, member


def documented() -> Iterator[tuple[str, Any]]:
    """Everything that the reference holds, by its full name: the public names, and methods of `WITH_METHODS`."""
    for names in SECTIONS.values():
        for name in names:
            found = named(name)
            yield name, found
            if name in WITH_METHODS:
                yield from ((f"{name}.{method}", each) for method, each in methods(found))


def docstring(found: Any) -> str:
    """The docstring of a class or function; of an instance, that of its class."""
    has_own = inspect.isclass(found) or inspect.isroutine(found)
    return inspect.getdoc(found if has_own else type(found)) or ""


def divided(text: str) -> tuple[str, str]:
    """A docstring's words and its example."""
    at = text.find(">>> ")
    return (text, "") if at < 0 else (text[:at].rstrip(), text[at:].rstrip())


def reference() -> str:
    """The whole page."""
    parts = [
        "# API reference\n",
        "Made from the docstrings by `python docs/make_api.py`; the examples are run by `make test`, after this:\n",
        f"```python\n{SETTING}```\n",
    ]
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n")
        for name in names:
            parts += _entry(name, named(name), "###")
            if name in WITH_METHODS:
                for method, each in methods(named(name)):
                    parts += _entry(f"{name}.{method}", each, "####")
        if section == "Slots":
            parts.append(f"### Options of `gen` and `run`\n\n{docstring(RunOptions)}\n")
        if section == "Errors":
            tree = (errors.__doc__ or "").partition("\n\n")[2].strip()
            parts.append(f"All are in `branchwork.runtime.wire.errors`:\n\n```text\n{tree}\n```\n")
    return "\n".join(parts)


def _entry(name: str, found: Any, level: str) -> list[str]:
    words, example = divided(docstring(found))
    parts = [f"{level} `{name}`\n"]
    has_signature = inspect.isroutine(found) or (
        inspect.isclass(found) and not issubclass(found, Exception | ChoicesSamplingMethod | Expr)
    )
    if has_signature and name not in MADE_BY_RUNNING:
        parts.append(f"```python\n{_signature(name, found)}\n```\n")
    parts.append(f"{words}\n")
    if example:
        shown = re.sub(r" *# doctest: .*", "", example)
        parts.append(f"```pycon\n{shown}\n```\n")
    return parts


def _signature(name: str, found: Any) -> str:
    """The call as it is written, on one line or with a line for each parameter."""
    signature = inspect.signature(found)
    written: list[str] = []
    for each in list(signature.parameters.values())["." in name :]:
        if each.kind is each.KEYWORD_ONLY and not any(part.startswith("*") for part in written):
            written.append("*")
        written.append(_plain(str(each)))
    await_ = "await " if inspect.iscoroutinefunction(found) else ""
    returned = "" if inspect.isclass(found) else _plain(str(signature)).rpartition(")")[2]
    whole = f"{await_}{name}({', '.join(written)}){returned}"
    if len(whole) <= 100:
        return whole
    return f"{await_}{name}(\n" + "".join(f"    {each},\n" for each in written) + f"){returned}"


def _plain(annotation: str) -> str:
    """An annotation as its author wrote it, whichever version of Python prints it."""
    named = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", annotation)
    unions = re.sub(r"Union\[(\w+), (Literal\[[^]]*\])\]", r"\1 | \2", named)
    return re.sub(r"'([A-Z]\w*)'", r"\1", unions)


def examples(name: str, found: Any) -> doctest.DocTest:
    """The example of one name, ready to be run after `SETTING`."""
    return doctest.DocTestParser().get_doctest(docstring(found), {}, name, None, None)


if __name__ == "__main__":
    PATH.write_text(reference(), encoding="utf-8")
