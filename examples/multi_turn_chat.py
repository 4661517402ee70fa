"""A chat of several turns: each turn goes on from the tokens of the last, and sends only what is new."""

from branchwork import State, function, gen


@function
def chat(s: State, turns: list[str]) -> None:
    with s.system():
        s += "You are a helpful assistant."
    for i, words in enumerate(turns):
        with s.user():
            s += words
        with s.assistant():
            s += gen(f"reply_{i}")


def main() -> None:
    turns = ["My name is Nora.", "What colour is the sky?", "What is my name?", "Thanks!"]
    state = chat.run(turns=turns, temperature=0)
    for message in state.messages():
        print(f"{message['role']:>9}: {message['content']}")


if __name__ == "__main__":
    main()
