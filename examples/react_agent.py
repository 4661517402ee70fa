"""ReAct (Yao et al. 2023): the model thinks, acts and observes, until it finishes."""

from branchwork import State, function, gen

KNOWN = {
    "Grace Holm": "Grace Holm lives in Lisbon.",
    "Lisbon": "Lisbon is the capital of Portugal.",
    "yen": "The yen is the currency of Japan.",
    "Japan": "The capital of Japan is Tokyo.",
}
INSTRUCTION = (
    "Solve the question with thoughts, actions and observations. "
    "Actions: Search[topic], Calculate[sum], Finish[answer].\n\n"
)


def calculate(text: str) -> str:
    """Two numbers joined by + or -."""
    left, sign, right = text.split()
    return str(int(left) + int(right) if sign == "+" else int(left) - int(right))


@function
def react(s: State, question: str) -> str:
    s += INSTRUCTION + f"Question: {question}\n"
    for step in range(1, 6):
        s += "Thought:" + gen(f"thought_{step}", stop="\n")
        s += (
            "\nAction:"
            + gen(f"action_{step}", regex=r" (Search|Calculate|Finish)\[[^\]\n]+\]")
            + "\n"
        )
        action, _, argument = s[f"action_{step}"].strip().rstrip("]").partition("[")
        if action == "Finish":
            return str(argument)
        found = (
            calculate(argument) if action == "Calculate" else KNOWN.get(argument, "Nothing found.")
        )
        s += f"Observation: {found}\n"
    return "no answer"


def main() -> None:
    for question in (
        "In which country does Grace Holm live?",
        "What is the capital of the country that uses the yen?",
        "What is 47 + 38?",
    ):
        state = react.run(question=question, temperature=0)
        print(state.text().removeprefix(INSTRUCTION))
        print("=>", state.ret_value, "\n")


if __name__ == "__main__":
    main()
