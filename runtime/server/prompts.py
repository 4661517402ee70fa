"""Prompts as the routes of texts take them: a text, texts, token ids, or lists of token ids."""

from typing import Any

import msgspec

from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.generation import Limits, Prompt


def prompts_of(
    value: str | list[Any], limits: Limits, name: str = "prompt"
) -> list[str | tuple[int, ...]]:
    """The prompts of a request: a text, texts, token ids, or lists of token ids. Raises ApiError."""
    if isinstance(value, str):
        return [value]
    if not value:
        raise ApiError(f"{name} must not be empty", param=name)
    if type(value[0]) is int:
        return [_ids(value, name, limits)]
    limits.at_most(len(value), limits.config.max_prompts, name, "--max-prompts")
    found: list[str | tuple[int, ...]] = []
    for i, item in enumerate(value):
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, list) and item:
            found.append(_ids(item, f"{name}[{i}]", limits))
        else:
            raise ApiError(
                f"{name}[{i}] must be a text or a list of token ids, not empty",
                param=f"{name}[{i}]",
            )
    return found


def _ids(value: list[Any], at: str, limits: Limits) -> tuple[int, ...]:
    try:
        return limits.token_ids(msgspec.convert(value, list[int]), at)
    except msgspec.ValidationError:
        raise ApiError(f"{at} must hold token ids or texts, not both", param=at) from None


def as_prompt(prompt: str | tuple[int, ...]) -> Prompt:
    """One prompt of `prompts_of`, as the runtime takes it."""
    return Prompt.of_text(prompt) if isinstance(prompt, str) else Prompt.of_ids(prompt)
