"""Tree of thought (Yao et al. 2023): propose steps on forks of one prefix, value each, keep the best.

The puzzle: three numbers, a goal, and two steps that join two numbers by + or -.
"""

from branchwork import State, function, gen, select


@function
def solve(s: State, numbers: str, goal: int) -> list[tuple[str, float]]:
    s += f"Numbers: {numbers}\n"
    proposals = s.fork(2)
    proposals += ["Add the first two numbers.\nStep:", "Subtract the first two numbers.\nStep:"]
    proposals += gen("step", stop="\n")
    return [(proposal["step"].strip(), value(proposal["step"], goal)) for proposal in proposals]


def value(step: str, goal: int) -> float:
    """How sure the model is that the numbers that are left reach the goal."""
    left = step.partition("left:")[2].strip(" )")
    return float(judge.run(left=left, goal=goal, temperature=0).probs("verdict")["sure"])


@function
def judge(s: State, left: str, goal: int) -> None:
    s += f"Numbers: {left}\nGoal: {goal}\nCan one step reach the goal?\nAnswer:"
    s += gen("work", stop=":") + ": " + select("verdict", ["sure", "impossible"])


def main() -> None:
    state = solve.run(numbers="8 5 6", goal=9, temperature=0)
    for step, sure in state.ret_value:
        print(f"{step:32s} sure: {sure:.2f}")
    best, _ = max(state.ret_value, key=lambda found: found[1])
    print("best:", best)


if __name__ == "__main__":
    main()
