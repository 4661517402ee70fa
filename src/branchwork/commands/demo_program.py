"""What `branchwork demo` runs, and shows as it stands below this line."""

from dataclasses import dataclass

from branchwork import Expr, State, assistant, function, gen, select, user


@dataclass
class Person:
    """A typed answer: the model can write nothing else."""

    name: str
    age: int
    city: str
    hobbies: list[str]


def ask(question: str, answer: Expr) -> Expr:
    """A question in the user's role, and who fills the assistant's."""
    return user(question) + assistant(answer)


@function
def profile(s: State, text: str, review: str) -> object:
    """One program: typed JSON, three branches at once, a choice."""
    record = "Extract the record as JSON.\n" + text
    fields = "\nFields: name (string), age (integer), city (string), hobbies (list of strings)"
    s += ask(record + fields, gen("person", type=Person))

    forks = s.fork(3)
    forks += [
        ask(f"What is the capital of {country}?", gen("capital", max_tokens=8))
        for country in ("England", "France", "Japan")
    ]
    forks.join()

    question = "Is this review positive or negative?\n" + review
    s += ask(question, select("mood", choices=["positive", "negative"]))
    return forks
