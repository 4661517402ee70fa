"""Three voices of one model: low-rank adapters beside sprout, asked in one runtime and at once."""

from pathlib import Path

from branchwork import Runtime, State, function, gen

TRAINED = Path(__file__).parent / "train_adapter"
ADAPTERS = {name: TRAINED / name for name in ("polite", "as_json")}
QUESTIONS = ("What is the capital of Japan?", "What do bees make?", "Who are you?")


@function
def ask(s: State, question: str) -> None:
    with s.user():
        s += question
    with s.assistant():
        s += gen("answer")


def main() -> None:
    with Runtime(adapters=ADAPTERS):
        for adapter in ("", *ADAPTERS):
            states = ask.run_batch(QUESTIONS, adapter=adapter, temperature=0)
            for question, state in zip(QUESTIONS, states, strict=True):
                print(f"{adapter or 'plain':8} {question} {state['answer']}")


if __name__ == "__main__":
    main()
