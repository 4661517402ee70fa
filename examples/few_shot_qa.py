"""Few-shot questions: the shared examples are computed once, whatever the number of questions."""

from branchwork import State, function, gen

EXAMPLES = [
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of Italy?", "Rome"),
]


@function
def few_shot_qa(s: State, question: str) -> None:
    for asked, answer in EXAMPLES:
        s += f"Q: {asked}\nA: {answer}\n"
    s += f"Q: {question}\nA:" + gen("answer", stop="\n")


def main() -> None:
    questions = [
        f"What is the capital of {country}?" for country in ("Japan", "Egypt", "Peru", "Norway")
    ]
    states = few_shot_qa.run_batch(
        [{"question": question} for question in questions], temperature=0
    )
    for question, state in zip(questions, states, strict=True):
        meta = state.get_meta_info("answer")
        shared = f"{meta['cached_tokens']} of {meta['prompt_tokens']} prompt tokens were shared"
        print(f"{question} {state['answer'].strip()}  ({shared})")


if __name__ == "__main__":
    main()
