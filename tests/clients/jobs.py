"""What every client is asked to do, and what its answer must be: on a model that knows something, and on another."""

import json
import os
from typing import Any

from pydantic import BaseModel

MODEL = os.environ.get("CLIENTS_MODEL", "sprout")
"""sprout; `random`: its shape with weights that were never trained; or a folder."""
KNOWS = MODEL == "sprout"
"""Whether the model knows what it is asked. One that was never trained writes anything, and does not stop by itself."""

KEY = "clients-key"
ADMIN_KEY = "clients-admin-key"

QUESTION = "What is the capital of France?"
CHAT: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": CITY,
        "strict": True,
    },
}
ASK_WEATHER = "What is the weather in Oslo?"
RECORD = "Name: Mara Lindqvist\nAge: 34\nCity: Oslo\n\nWrite this record as JSON."


class Person(BaseModel):
    """A person's record."""

    name: str
    age: int
    city: str


def check_answer(text: Any, *words: str) -> None:
    """The text of a free answer: it holds one of `words`, where the model knows."""
    assert isinstance(text, str)
    if KNOWS and words:
        assert any(word in text for word in words), text


def check_person(person: Any) -> None:
    """The record of RECORD, as an object, a dict or JSON: its types always, its values where the model can read."""
    if isinstance(person, str):
        person = json.loads(person)
    if isinstance(person, BaseModel):
        person = person.model_dump()
    assert set(person) == {"name", "age", "city"}
    assert [type(person[key]) for key in ("name", "age", "city")] == [str, int, str]
    if KNOWS:
        # A name it has never seen it may spell another way.
        assert (person["age"], person["city"]) == (34, "Oslo")


def check_city(arguments: Any) -> None:
    """The arguments of a call of `get_weather`, as a dict or JSON."""
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    assert set(arguments) == {"city"}
    assert isinstance(arguments["city"], str)
    if KNOWS:
        assert arguments["city"] == "Oslo"


def check_ended(reason: str, *, good: str = "stop") -> None:
    """Why a free answer ended: a trained model stops by itself."""
    assert reason == good or (not KNOWS and reason in ("length", "max_tokens", "incomplete"))
