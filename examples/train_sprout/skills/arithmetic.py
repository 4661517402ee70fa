"""Sums and differences of two-digit numbers with written steps, and tiny ones outright."""

from __future__ import annotations

from examples.train_sprout.document import CUT, Document, Piece
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import ask, few_shot

ADD = (
    "What is {0} + {1}?",
    "{0} + {1} = ?",
    "{0} + {1}",
    "Compute {0} + {1}.",
    "Add {0} and {1}.",
    "What is {0} plus {1}?",
    "Calculate {0} + {1}",
    "How much is {0} + {1}?",
)
SUBTRACT = (
    "What is {0} - {1}?",
    "{0} - {1} = ?",
    "{0} - {1}",
    "Compute {0} - {1}.",
    "Subtract {1} from {0}.",
    "What is {0} minus {1}?",
    "Calculate {0} - {1}",
    "How much is {0} - {1}?",
)
GAINS = (
    "{name} has {0} {fruit} and gets {1} more. How many {fruit} does {name} have now?",
    "{name} buys {0} {fruit} and then {1} {fruit}. How many {fruit} is that?",
)
LOSSES = (
    "{name} has {0} {fruit} and gives away {1}. How many {fruit} are left?",
    "There are {0} {fruit}. {name} eats {1}. How many {fruit} are left?",
)
HINTS = (
    "",
    "",
    "",
    " Show the steps.",
    " Think step by step.",
    " Let's think step by step.",
    " Work it out step by step.",
)
FRUITS = ("apples", "pears", "plums", "lemons", "cards", "coins", "books", "eggs")


def added(a: int, b: int) -> str:
    """The written steps of a + b, with a cut around each result."""
    units = a % 10 + b % 10
    carry = units // 10
    tens = a // 10 + b // 10 + carry
    return (
        f"Units: {a % 10} + {b % 10} ={CUT} {units}, carry {carry}.{CUT} "
        f"Tens: {a // 10} + {b // 10} + {carry} ={CUT} {tens}.{CUT} Answer: {a + b}"
    )


def subtracted(a: int, b: int) -> str:
    """The written steps of a - b for a >= b, cut likewise."""
    borrow = int(a % 10 < b % 10)
    units = a % 10 + 10 * borrow
    return (
        f"Units: {units} - {b % 10} ={CUT} {units - b % 10}, borrow {borrow}.{CUT} "
        f"Tens: {a // 10} - {b // 10} - {borrow} ={CUT} {a // 10 - b // 10 - borrow}.{CUT} "
        f"Answer: {a - b}"
    )


def operands(draw: Draw, *, minus: bool) -> tuple[int, int]:
    """Two numbers under 100, at least one of two digits; the larger first for a difference."""

    def make() -> tuple[int, int]:
        a, b = draw.between(10, 99), draw.between(10 if draw.chance(0.9) else 0, 99)
        if minus:
            return max(a, b), min(a, b)
        return (a, b) if draw.chance(0.95) else (b, a)

    return draw.pair(make)


def worked(draw: Draw) -> tuple[str, str]:
    """A question with two-digit numbers and its steps."""
    minus = draw.chance(0.5)
    a, b = operands(draw, minus=minus)
    if draw.chance(0.15):
        template = draw.of(LOSSES if minus else GAINS)
        question = template.format(a, b, name=draw.first_name(), fruit=draw.of(FRUITS))
    else:
        question = draw.of(SUBTRACT if minus else ADD).format(a, b)
    return question + draw.of(HINTS), subtracted(a, b) if minus else added(a, b)


def sums(draw: Draw) -> Document:
    """One worked sum or difference."""
    return ask(draw, *worked(draw))


def few_shot_sums(draw: Draw) -> Document:
    """Worked examples, then one more to work."""
    return few_shot(draw, [worked(draw) for _ in range(draw.between(2, 4))])


def tiny_sum(draw: Draw) -> tuple[str, str]:
    """A sum or difference of numbers up to ten, answered outright."""
    a, b = draw.between(0, 10), draw.between(0, 10)
    if draw.chance(0.5):
        return f"{a} + {b}", str(a + b)
    return f"{max(a, b)} - {min(a, b)}", str(abs(a - b))


def few_shot_tiny(draw: Draw) -> Document:
    """A column of tiny sums, answered outright as the examples show."""
    ending = draw.of((" =", " = ?"))
    examples = []
    for _ in range(draw.between(3, 5)):
        question, answer = tiny_sum(draw)
        examples.append((question + ending, answer))
    return few_shot(draw, examples)


def table_line(draw: Draw) -> tuple[str, int]:
    """One of the small sums that written steps are made of, and its result."""
    a, b, c = draw.between(0, 9), draw.between(0, 9), draw.between(0, 1)
    form = draw.between(0, 3)
    if form == 0:
        return f"{a} + {b} =", a + b
    if form == 1:
        return f"{a} + {b} + {c} =", a + b + c
    larger = a if a >= b + c else a + 10
    if form == 2:
        return f"{larger} - {b} - {c} =", larger - b - c
    return f"{larger} - {b} =", larger - b


def table(draw: Draw) -> Document:
    """Many small sums under one another."""
    pieces = []
    for _ in range(draw.between(8, 16)):
        line, result = table_line(draw)
        pieces += [Piece(line), Piece(f" {result}\n", wanted=True)]
    return Document(tuple(pieces), "\n")
