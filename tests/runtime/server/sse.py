"""Reads server-sent events as strictly as the protocol allows."""

import json
from typing import Any


def events(text: str) -> list[Any]:
    """The data of each event; the last is the string [DONE]."""
    assert text.endswith("\n\n")
    found: list[Any] = []
    for block in text[:-2].split("\n\n"):
        assert block.startswith("data: ")
        assert "\n" not in block
        body = block.removeprefix("data: ")
        found.append("[DONE]" if body == "[DONE]" else json.loads(body))
    return found


def chunks(text: str) -> list[dict[str, Any]]:
    """The chunks before [DONE]."""
    *found, last = events(text)
    assert last == "[DONE]"
    return found
