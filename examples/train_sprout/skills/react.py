"""ReAct: thoughts, actions and observations in lines, up to `Finish[...]`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from examples.train_sprout.document import Document, Piece
from examples.train_sprout.draw import Draw
from examples.train_sprout.skills.arithmetic import operands
from examples.train_sprout.skills.reading import PERSON
from examples.train_sprout.words import COUNTRIES

INSTRUCTION = (
    "Solve the question with thoughts, actions and observations. "
    "Actions: Search[topic], Calculate[sum], Finish[answer].\n\n"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the loop; the last has no observation."""

    thought: str
    action: str
    observation: str | None = None


Task = tuple[str, list[Step]]


def person(draw: Draw) -> Task:
    """A question about someone whom only the search knows."""
    name = draw.name()
    fact, *others = draw.some(PERSON.facts, draw.between(1, 2))
    question, value = draw.of(fact.asked).format(name), fact.draw(draw)
    found = [fact.said.format(name, value)]
    found += [other.said.format(name, other.draw(draw)) for other in others]
    observation = " ".join(draw.some(found, len(found)))
    return question, [
        Step(f"I need to search {name}.", f"Search[{name}]", observation),
        Step(f"The answer is {value}.", f"Finish[{value}]"),
    ]


def capital_of_currency(draw: Draw) -> Task:
    """Two searches, the second for what the first has found."""
    country = draw.of([c for c in COUNTRIES if c.currency != "euro"])
    question = "What is the capital of the country that uses the {}?"
    return question.format(country.currency), [
        Step(
            f"I need to find the country that uses the {country.currency}.",
            f"Search[{country.currency}]",
            f"The {country.currency} is the currency of {country.name}.",
        ),
        Step(
            f"The country is {country.name}. I need its capital.",
            f"Search[{country.name}]",
            f"The capital of {country.name} is {country.capital}.",
        ),
        Step(f"The answer is {country.capital}.", f"Finish[{country.capital}]"),
    ]


def home_country(draw: Draw) -> Task:
    """Where someone lives, and the country of that city."""
    name, country = draw.name(), draw.of(COUNTRIES)
    return f"In which country does {name} live?", [
        Step(f"I need to search {name}.", f"Search[{name}]", f"{name} lives in {country.capital}."),
        Step(
            f"{name} lives in {country.capital}. I need its country.",
            f"Search[{country.capital}]",
            f"{country.capital} is the capital of {country.name}.",
        ),
        Step(f"The answer is {country.name}.", f"Finish[{country.name}]"),
    ]


def calculation(draw: Draw) -> Task:
    """A sum that the calculator does."""
    minus = draw.chance(0.5)
    a, b = operands(draw, minus=minus)
    sign, result = ("-", a - b) if minus else ("+", a + b)
    question = f"What is {a} {sign} {b}?"
    return question, [
        Step(f"I need to calculate {a} {sign} {b}.", f"Calculate[{a} {sign} {b}]", str(result)),
        Step(f"The answer is {result}.", f"Finish[{result}]"),
    ]


TASKS: tuple[Callable[[Draw], Task], ...] = (
    person,
    person,
    capital_of_currency,
    home_country,
    calculation,
)


def written(task: Task) -> list[Piece]:
    """A task in lines; thoughts and actions are wanted, observations are given."""
    question, steps = task
    pieces = [Piece(f"Question: {question}\n")]
    for step in steps:
        pieces += [Piece("Thought:"), Piece(f" {step.thought}\n", wanted=True)]
        pieces += [Piece("Action:"), Piece(f" {step.action}\n", wanted=True)]
        if step.observation is not None:
            pieces.append(Piece(f"Observation: {step.observation}\n"))
    return pieces


def agent(draw: Draw) -> Document:
    """A question solved, after the instruction or a solved one or both; cut after any answer."""
    shown = draw.chance(0.3)
    pieces = [Piece(INSTRUCTION)] if draw.chance(0.7) or not shown else []
    if shown:
        pieces += [*written(draw.of(TASKS)(draw)), Piece("\n")]
    steps = written(draw.of(TASKS)(draw))
    ends = [i for i, piece in enumerate(steps) if piece.wanted]
    pieces += steps[: (draw.of(ends) if draw.chance(0.5) else ends[-1]) + 1]
    return Document(tuple(pieces), "\n")
