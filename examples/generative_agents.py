"""Generative agents (Park et al. 2023), small: each has a memory, and answers from what it remembers."""

from branchwork import State, assistant, function, gen, user

AGENTS = {
    "Mara": ["My name is Mara.", "My favourite colour is blue.", "I live in Prague."],
    "Igor": ["My name is Igor.", "I work as a baker.", "My pet is a parrot."],
}
QUESTIONS = {
    "Mara": ["Where do I live?", "What is my favourite colour?"],
    "Igor": ["What is my job?", "What is my pet?"],
}


@function
def recall(s: State, memory: list[str], questions: list[str]) -> None:
    """The memory is told once; each question is asked on a fork of it."""
    for i, fact in enumerate(memory):
        s += user(fact) + assistant(gen(f"heard_{i}"))
    forks = s.fork(len(questions))
    forks += [user(question) + assistant(gen("reply")) for question in questions]
    forks.join()


def main() -> None:
    batch = [{"memory": memory, "questions": QUESTIONS[name]} for name, memory in AGENTS.items()]
    for name, state in zip(AGENTS, recall.run_batch(batch, temperature=0), strict=True):
        for question, reply in zip(QUESTIONS[name], state["reply"], strict=True):
            print(f"{name}: {question} {reply}")


if __name__ == "__main__":
    main()
