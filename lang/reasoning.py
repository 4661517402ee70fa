"""How models mark what they think before they answer."""

from collections.abc import Callable

import msgspec

from branchwork.runtime.wire.errors import ProgramError


class _Marks(msgspec.Struct, frozen=True):
    """`opened`: the prompt has already begun the thought, so a text without marks is thought throughout."""

    begin: str
    end: str
    opened: bool = False


_MARKS = {
    "deepseek-r1": _Marks("<think>", "</think>", opened=True),
    "deepseek-v3": _Marks("<think>", "</think>"),
    "qwen3": _Marks("<think>", "</think>"),
    "qwen3-thinking": _Marks("<think>", "</think>", opened=True),
    "glm45": _Marks("<think>", "</think>"),
    "kimi": _Marks("◁think▷", "◁/think▷"),
    "step3": _Marks("<think>", "</think>", opened=True),
}


def splitter(model_type: str) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """Two functions of a text: what was thought in it, and what was said. Raises ProgramError for another model."""
    marks = _MARKS.get(model_type.lower())
    if marks is None:
        raise ProgramError(f"model_type {model_type!r} is none of {', '.join(_MARKS)}")
    return (lambda text: _split(text, marks)[0]), (lambda text: _split(text, marks)[1])


def _split(text: str, marks: _Marks) -> tuple[str, str]:
    begun = text.lstrip().startswith(marks.begin)
    if not (begun or marks.opened or marks.end in text):
        return "", text
    thought, _, said = text.partition(marks.end)
    return thought.replace(marks.begin, "", 1).strip(), said.strip()
