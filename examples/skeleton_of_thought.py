"""Skeleton of thought (Ning et al. 2023): first the points, then all of them at once, each on a fork."""

from branchwork import State, assistant, function, gen, user


@function
def tips(s: State, topic: str, count: int) -> None:
    s += user(f"Give {count} short tips on how to {topic}.")
    s += assistant(gen("skeleton"))
    points = [line.partition(". ")[2] for line in s["skeleton"].splitlines()]
    forks = s.fork(len(points))
    forks += lambda i: user(f"Expand the tip: {points[i]}") + assistant(gen("sentence"))
    forks.join()
    s["points"] = points


def main() -> None:
    state = tips.run(topic="travel light", count=3, temperature=0)
    for point, sentence in zip(state["points"], state["sentence"], strict=True):
        print(f"* {point}: {sentence}")


if __name__ == "__main__":
    main()
