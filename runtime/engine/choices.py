"""How a select decides: each method gives every choice a figure, and names the best.

The methods and their names are SGLang's (python/sglang/lang/choices.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from branchwork.runtime.wire.messages import TokenLogprob


@dataclass(slots=True)
class Choice:
    """A choice: its text, and its tokens, which follow the branch's first `keep`.

    `logprobs` are of its tokens after the branch; `unconditional` of the same tokens by themselves, where the first
    has none.
    """

    text: str
    keep: int
    token_ids: tuple[int, ...]
    logprobs: list[TokenLogprob] = field(default_factory=list)
    unconditional: list[TokenLogprob] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        """The logprobs as numbers."""
        return _values(self.logprobs)

    @property
    def logprob(self) -> float:
        """Of the whole choice."""
        return sum(self.values)

    @property
    def mean(self) -> float:
        """Logprob per token."""
        return self.logprob / len(self.logprobs)


Scores = tuple[list[float], int]
"""A figure for each choice, and the index of the best (the first, among equals)."""


def token_length_normalized(choices: Sequence[Choice]) -> Scores:
    """The mean logprob of the choice's tokens."""
    return _best([choice.mean for choice in choices])


def greedy_token_selection(choices: Sequence[Choice]) -> Scores:
    """The choice that greedy decoding would reach: token by token, those with the highest logprob stay.

    A choice that is shorter than others goes on with its mean logprob. The figure is the logprob at the last token
    where a choice was still in the running.
    """
    length = max(len(choice.logprobs) for choice in choices)
    padded = [choice.values + [choice.mean] * (length - len(choice.logprobs)) for choice in choices]
    figures = [row[0] for row in padded]
    staying = list(range(len(choices)))
    for column in range(length):
        for index in staying:
            figures[index] = padded[index][column]
        highest = max(figures[index] for index in staying)
        staying = [index for index in staying if figures[index] == highest]
        if len(staying) == 1:
            break
    return figures, staying[0]


def unconditional_likelihood_normalized(choices: Sequence[Choice]) -> Scores:
    """The mean of what the prompt adds to each token's logprob: a choice that is likely anyway gains nothing."""
    return _best(
        [
            choice.mean - sum(_values(choice.unconditional)) / len(choice.unconditional)
            for choice in choices
        ]
    )


METHODS: Mapping[str, Callable[[Sequence[Choice]], Scores]] = {
    "token_length_normalized": token_length_normalized,
    "greedy_token_selection": greedy_token_selection,
    "unconditional_likelihood_normalized": unconditional_likelihood_normalized,
    "none": token_length_normalized,
}


def _values(logprobs: Sequence[TokenLogprob]) -> list[float]:
    """The logprobs as numbers; the first token of a text by itself has none, which counts as 0."""
    return [one.logprob if one.logprob is not None else 0.0 for one in logprobs]


def _best(figures: list[float]) -> Scores:
    return figures, max(range(len(figures)), key=figures.__getitem__)
