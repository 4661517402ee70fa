"""Choosing a tool, calling it in the Hermes form, and answering from its response."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from examples.train_sprout.document import Document, Turn, chat
from examples.train_sprout.draw import Draw
from examples.train_sprout.skills.arithmetic import operands
from examples.train_sprout.skills.talk import question, small_talk
from examples.train_sprout.template import tool_prompt
from examples.train_sprout.words import DAYS, ITEMS

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function: its signature, how users ask for it, what it returns and what one says then.

    `parameters` maps names to (JSON type, draw). `asked`, `said` are templates over the
    arguments, `said` also over the results.
    """

    name: str
    description: str
    parameters: dict[str, tuple[str, Callable[[Draw], Any]]]
    asked: tuple[str, ...]
    results: dict[str, Callable[[Draw], Any]]
    said: str

    def signature(self, *, closed: bool) -> dict[str, Any]:
        """The function's entry in the list of tools; `closed` as `branchwork.tool_prompt` makes it."""
        properties = {name: {"type": kind} for name, (kind, _) in self.parameters.items()}
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        parameters |= {"required": list(properties)} | (
            {"additionalProperties": False} if closed else {}
        )
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def expression(draw: Draw) -> str:
    """A sum in digits."""
    minus = draw.chance(0.5)
    a, b = operands(draw, minus=minus)
    return f"{a} {'-' if minus else draw.of(('+', '*'))} {b}"


def small(low: int, high: int) -> Callable[[Draw], int]:
    """Integers of a range."""
    return lambda draw: draw.between(low, high)


CITY, NAME, WORD = ("string", Draw.city), ("string", Draw.name), ("string", Draw.word)
PROPER, EMAIL = ("string", Draw.proper), ("string", Draw.email)

TOOLS = (
    Tool(
        "get_weather",
        "Get the weather of a city",
        {"city": CITY},
        (
            "What is the weather in {city}?",
            "How is the weather in {city}?",
        ),
        {
            "temperature": small(-20, 40),
            "condition": lambda d: d.of(("sunny", "cloudy", "rainy", "windy", "foggy")),
        },
        "It is {condition} and {temperature} degrees in {city}.",
    ),
    Tool(
        "calculate",
        "Calculate an expression",
        {"expression": ("string", expression)},
        (
            "What is {expression}?",
            "Compute {expression}.",
        ),
        {"result": small(0, 9999)},
        "The result is {result}.",
    ),
    Tool(
        "get_time",
        "Get the time in a city",
        {"city": CITY},
        ("What time is it in {city}?",),
        {"time": Draw.time},
        "It is {time} in {city}.",
    ),
    Tool(
        "send_email",
        "Send an e-mail",
        {"to": EMAIL, "subject": WORD},
        (
            "Send an e-mail to {to} about {subject}.",
            "Write to {to} with the subject {subject}.",
            "E-mail {to} about {subject}",
        ),
        {"status": lambda d: "sent"},
        "The e-mail to {to} is sent.",
    ),
    Tool(
        "set_timer",
        "Set a timer",
        {"minutes": ("integer", small(1, 90))},
        (
            "Set a timer for {minutes} minutes.",
            "Wake me in {minutes} minutes.",
            "Start a timer of {minutes} minutes",
        ),
        {"status": lambda d: "started"},
        "The timer is set for {minutes} minutes.",
    ),
    Tool(
        "book_table",
        "Book a table in a restaurant",
        {
            "restaurant": PROPER,
            "guests": ("integer", small(1, 20)),
            "day": ("string", lambda d: d.of(DAYS)),
        },
        (
            "Book a table for {guests} at {restaurant} on {day}.",
            "Reserve a table at {restaurant} for {guests} people on {day}.",
        ),
        {"status": lambda d: "booked"},
        "The table at {restaurant} is booked for {day}.",
    ),
    Tool(
        "add_to_cart",
        "Add an item to the cart",
        {
            "item": ("string", lambda d: d.of(ITEMS)),
            "quantity": ("integer", lambda d: d.number(1, 999)),
        },
        (
            "Add {quantity} of the {item} to my cart.",
            "Put {quantity} x {item} in the cart.",
            "I want to buy {quantity} of the {item}.",
        ),
        {"total": lambda d: d.number(1, 9999)},
        "The cart holds {quantity} x {item}, {total} dollars in total.",
    ),
    Tool(
        "get_user",
        "Get a user by number",
        {"user_id": ("integer", lambda d: d.number(1, 99_999))},
        (
            "Who is user {user_id}?",
            "Show me user {user_id}.",
            "Get the user with the number {user_id}.",
        ),
        {"name": Draw.name},
        "User {user_id} is {name}.",
    ),
)


def request(draw: Draw, tool: Tool) -> tuple[str, str, Arguments]:
    """What the user says, the assistant's call, and the call's arguments."""
    arguments = {name: make(draw) for name, (_, make) in tool.parameters.items()}
    asked = draw.of(tool.asked).format(**arguments)
    call = json.dumps({"name": tool.name, "arguments": arguments}, ensure_ascii=False)
    return asked, f"<tool_call>\n{call}\n</tool_call>", arguments


def exchange(draw: Draw, tool: Tool) -> list[Turn]:
    """A request, the call, the tool's response, and the answer."""
    asked, call, arguments = request(draw, tool)
    results = {name: make(draw) for name, make in tool.results.items()}
    response = json.dumps(results, ensure_ascii=False)
    return [
        Turn("user", asked),
        Turn("assistant", call),
        Turn("user", f"<tool_response>\n{response}\n</tool_response>"),
        Turn("assistant", tool.said.format(**arguments, **results)),
    ]


def system(draw: Draw, tools: list[Tool]) -> Turn:
    """The system message that lists the tools, as the chat template writes it."""
    closed = draw.chance(0.5)
    own = draw.of((None, None, "You are a helpful assistant."))
    return Turn("system", tool_prompt([tool.signature(closed=closed) for tool in tools], own))


def tool_call(draw: Draw) -> Document:
    """One or two tools and a request: the call; rarely a request that needs none."""
    tools = draw.some(TOOLS, draw.between(1, 2))
    turns = exchange(draw, draw.of(tools)) if draw.chance(0.1) else []
    if draw.chance(0.1):
        without = small_talk(draw) if draw.chance(0.5) else question(draw)
        return chat(system(draw, tools), *turns, *without)
    asked, call, _ = request(draw, draw.of(tools))
    return chat(system(draw, tools), *turns, Turn("user", asked), Turn("assistant", call))


def tool_answer(draw: Draw) -> Document:
    """A call with its response: the final answer."""
    tools = draw.some(TOOLS, draw.between(1, 2))
    return chat(system(draw, tools), *exchange(draw, draw.of(tools)))
