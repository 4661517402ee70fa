"""Branch, solve, merge (Saha et al. 2023): answers are judged side by side, and the verdicts merged."""

from dataclasses import dataclass
from typing import Literal

from branchwork import State, function, gen


@dataclass
class Verdict:
    verdict: Literal["good", "bad"]
    score: Literal[1, 2, 3, 4, 5]


@function
def judge(s: State, question: str, answers: list[str]) -> None:
    s += f"Judge the answer.\nQuestion: {question}\nExpected:" + gen("expected", stop="\n") + "\n"
    branches = s.fork(len(answers))
    branches += [f"Answer: {answer}\nJSON: " for answer in answers]
    branches += gen("judged", type=Verdict)
    branches.join()


def main() -> None:
    answers = ["It is Paris.", "Maybe.", "It is Tokyo.", "Bananas are yellow."]
    state = judge.run(question="What is the capital of France?", answers=answers, temperature=0)
    judged = dict(zip(answers, state["judged"], strict=True))
    for answer, verdict in judged.items():
        print(f"{answer:22s} {verdict.verdict:5s} {verdict.score}")
    print("best:", max(judged, key=lambda answer: judged[answer].score))


if __name__ == "__main__":
    main()
