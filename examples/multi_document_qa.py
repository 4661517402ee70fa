"""Documents are read on parallel branches, and their texts joined into the branch that asks."""

from branchwork import State, function, gen

DOCUMENTS = [
    "Ada Berg is 36 years old. Ada Berg lives in Oslo.",
    "Acme was founded by Tom Ferro. Acme is based in Lisbon.",
    "Lake Brena is close to Vienna.",
]


@function
def ask(s: State, question: str) -> None:
    s += "Answer the question from the text.\n"
    readers = s.fork(len(DOCUMENTS))
    readers += lambda i: f"Document {i + 1}: {DOCUMENTS[i]}\n"
    readers.join("concate_and_append")
    s += f"Question: {question}\nAnswer:" + gen("answer", stop="\n")


def main() -> None:
    for question in (
        "Where does Ada Berg live?",
        "Who founded Acme?",
        "Which city is Lake Brena near?",
    ):
        state = ask.run(question=question, temperature=0)
        meta = state.get_meta_info("answer")
        cached = f"{meta['cached_tokens']} of {meta['prompt_tokens']} prompt tokens cached"
        print(f"{question} {state['answer'].strip()}  ({cached})")


if __name__ == "__main__":
    main()
