"""Retrieval-augmented generation: find the passages that share most words with the question, then answer from them."""

import math
import re
from collections import Counter

from branchwork import State, assistant, function, gen, user

PASSAGES = [
    "Ines Hald is 41 years old. Ines Hald works as a pilot.",
    "The museum Brava opens at 10:30. The museum Brava is in room 12.",
    "Norvik was founded in the year 1987. Norvik has 240 employees.",
    "Ruben Stark lives in Prague. Ruben Stark likes chess.",
    "The library Orla is on Friday. The library Orla costs 5 euros.",
]


def words(text: str) -> Counter[str]:
    """The words of a text, counted."""
    return Counter(re.findall(r"\w+", text.lower()))


def retrieve(question: str, count: int) -> list[str]:
    """The passages nearest to the question: shared words, each weighted by how rare it is (tf-idf)."""
    asked = words(question)
    frequency = Counter(word for passage in PASSAGES for word in words(passage))

    def score(passage: str) -> float:
        return sum(
            math.log(len(PASSAGES) / frequency[word]) for word in words(passage) if word in asked
        )

    return sorted(PASSAGES, key=score, reverse=True)[:count]


@function
def answer(s: State, question: str) -> None:
    found = "\n".join(f"[{i}] {passage}" for i, passage in enumerate(retrieve(question, 2), 1))
    s += user(f"Answer from the context.\n{found}\nQuestion: {question}")
    s += assistant(gen("answer"))


def main() -> None:
    questions = [
        "What is the job of Ines Hald?",
        "How many employees does Norvik have?",
        "Where does Ruben Stark live?",
    ]
    for question, state in zip(questions, answer.run_batch(questions, temperature=0), strict=True):
        print(question, state["answer"])


if __name__ == "__main__":
    main()
