"""ReAct: thoughts, actions and observations in lines, up to `Finish[...]`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from examples.train_sprout.document import IM_END, IM_START, Document, Piece
from examples.train_sprout.draw import Draw
from examples.train_sprout.skills.arithmetic import operands
from examples.train_sprout.skills.reading import PERSON
from examples.train_sprout.words import COUNTRIES

INSTRUCTIONS = (
    "Solve the question with thoughts, actions and observations. "
    "Actions: Search[topic], Calculate[sum], Finish[answer].",
    "Answer with Thought, Action and Observation steps. "
    "The actions are Search[topic], Calculate[sum] and Finish[answer].",
    "",
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
    found = [draw.of(fact.said).format(name, value)]
    found += [draw.of(other.said).format(name, other.draw(draw)) for other in others]
    observation = " ".join(draw.some(found, len(found)))
    return question, [
        Step(f"I need to search {name}.", f"Search[{name}]", observation),
        Step(f"The answer is {value}.", f"Finish[{value}]"),
    ]


def capital_of_currency(draw: Draw) -> Task:
    """Two searches, the second for what the first has found."""
    country = draw.of([c for c in COUNTRIES if c.currency != "euro"])
    question = draw.of(
        (
            "What is the capital of the country that uses the {}?",
            "Which city is the capital of the country whose currency is the {}?",
        )
    )
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
    question = draw.of(("What is {} {} {}?", "How much is {} {} {}?", "Compute {} {} {}.")).format(
        a, sign, b
    )
    return question, [
        Step(f"I need to calculate {a} {sign} {b}.", f"Calculate[{a} {sign} {b}]", str(result)),
        Step(f"The answer is {result}.", f"Finish[{result}]"),
    ]


def ages(draw: Draw) -> Task:
    """Two people to search and a sum of their ages."""
    one, other = draw.name(), draw.name()
    a, b = operands(draw, minus=False)
    return f"How old are {one} and {other} together?", [
        Step(f"I need to search {one}.", f"Search[{one}]", f"{one} is {a} years old."),
        Step(
            f"{one} is {a}. I need to search {other}.",
            f"Search[{other}]",
            f"{other} is {b} years old.",
        ),
        Step(f"I need to calculate {a} + {b}.", f"Calculate[{a} + {b}]", str(a + b)),
        Step(f"The answer is {a + b}.", f"Finish[{a + b}]"),
    ]


TASKS: tuple[Callable[[Draw], Task], ...] = (
    person,
    person,
    capital_of_currency,
    home_country,
    calculation,
    ages,
)


def written(task: Task, *, numbered: bool) -> list[Piece]:
    """A task in lines; thoughts and actions are wanted, observations are given."""
    question, steps = task
    pieces = [Piece(f"Question: {question}\n")]
    for count, step in enumerate(steps, start=1):
        number = f" {count}" if numbered else ""
        pieces.append(Piece(f"Thought{number}:"))
        pieces.append(Piece(f" {step.thought}\n", wanted=True))
        pieces.append(Piece(f"Action{number}:"))
        pieces.append(Piece(f" {step.action}\n", wanted=True))
        if step.observation is not None:
            pieces.append(Piece(f"Observation{number}: {step.observation}\n"))
    return pieces


def agent(draw: Draw) -> Document:
    """A question solved, after an instruction or up to two solved ones; cut after any action."""
    numbered = draw.chance(0.5)
    instruction = draw.of(INSTRUCTIONS)
    shown = draw.of((0, 0, 0, 0, 1, 2)) if instruction else draw.of((0, 0, 1, 2))
    pieces = [Piece(f"{instruction}\n\n")] if instruction else []
    for _ in range(shown):
        pieces += [*written(draw.of(TASKS)(draw), numbered=numbered), Piece("\n")]
    steps = written(draw.of(TASKS)(draw), numbered=numbered)
    ends = [
        i for i, piece in enumerate(steps) if piece.text.startswith((" Search", " Calc", " Finish"))
    ]
    pieces += steps[: draw.of(ends) + 1]
    return Document(tuple(pieces), "\n")


def agent_in_chat(draw: Draw) -> Document:
    """The same in ChatML: a step is the assistant's, an observation the user's."""
    question, steps = draw.of(TASKS)(draw)
    system = f"{IM_START}system\n{draw.of(INSTRUCTIONS[:2])}{IM_END}\n" if draw.chance(0.7) else ""
    given = f"{system}{IM_START}user\nQuestion: {question}{IM_END}\n"
    pieces: list[Piece] = []
    for step in steps[: draw.between(1, len(steps))]:
        pieces.append(Piece(f"{given}{IM_START}assistant\n"))
        pieces.append(Piece(f"Thought: {step.thought}\nAction: {step.action}{IM_END}", wanted=True))
        given = f"\n{IM_START}user\nObservation: {step.observation}{IM_END}\n"
    return Document(tuple(pieces))
