"""Classification with `select` over an Enum: every label scored in one call, with its probability."""

from enum import Enum

from branchwork import State, function, select


class Sentiment(Enum):
    GOOD = " positive"
    BAD = " negative"


@function
def classify(s: State, review: str) -> None:
    s += f"Review: {review}\nSentiment:" + select("sentiment", Sentiment)


def main() -> None:
    reviews = [
        "The film was wonderful. I would come again.",
        "I hated the hotel. One star.",
        "What a delightful concert!",
        "The soup was disgusting and the staff was rude.",
        "Worth every cent.",
    ]
    for review, state in zip(reviews, classify.run_batch(reviews, progress_bar=True), strict=True):
        label = state["sentiment"]
        print(f"{label.name:4s} {state.probs('sentiment')[label]:.0%}  {review}")


if __name__ == "__main__":
    main()
