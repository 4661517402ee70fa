"""What every client is asked to do."""

from typing import Any

QUESTION = "What is the capital of France?"
CHAT: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
RECORD = "Name: Mara Lindqvist\nAge: 34\nCity: Oslo\n\nWrite this record as JSON."
