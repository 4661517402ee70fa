"""How `select` decides: SGLang's three methods, and the form of a caller's own.

The three run in the runtime; here they are also callable on scores, as a caller's own method is. Scores are in
nats; a token's entry is `(logprob, token_id, text)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NotRequired, TypedDict, Unpack

import msgspec

from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import ProgramError

TokenEntry = tuple[float | None, int, str]


class Scores(TypedDict):
    """The keywords that a method is called with: for each choice, in order, how likely it is after the prompt.

    `normalized_prompt_logprobs` is the mean over the choice's tokens; `unconditional_token_logprobs` how likely they
    are without the prompt, None where that was not asked for.
    """

    choices: list[str]
    normalized_prompt_logprobs: list[float]
    input_token_logprobs: list[list[Any]]
    output_token_logprobs: list[list[Any]]
    unconditional_token_logprobs: NotRequired[list[list[Any]] | None]


class ChoicesDecision(msgspec.Struct):
    """The choice that was made, and what may be told about it.

    >>> def shortest(*, choices, **scores):
    ...     return bw.ChoicesDecision(min(choices, key=len))
    >>> bw.function(lambda: bw.select("x", ["longer", "short"], choices_method=shortest)).run()["x"]
    'short'
    """

    decision: str
    meta_info: dict[str, Any] | None = None


class ChoicesSamplingMethod(ABC):
    """A way to decide between choices; subclass it, or give any callable that takes the same keywords.

    >>> class Shortest(bw.ChoicesSamplingMethod):
    ...     def __call__(self, *, choices, **scores):
    ...         return bw.ChoicesDecision(min(choices, key=len))
    >>> bw.function(lambda: bw.select("x", ["longer", "short"], choices_method=Shortest())).run()["x"]
    'short'
    """

    @property
    def requires_unconditional_logprobs(self) -> bool:
        """Whether the choices' likelihood without the prompt is needed too."""
        return False

    @abstractmethod
    def __call__(self, **scores: Unpack[Scores]) -> ChoicesDecision:
        """Decide."""


class TokenLengthNormalized(ChoicesSamplingMethod):
    """The choice whose tokens have the highest mean log-probability.

    >>> method = bw.token_length_normalized
    >>> bw.function(lambda: bw.select("mood", [" good", " bad"], choices_method=method)).run()["mood"]
    ' good'
    """

    def __call__(self, **scores: Unpack[Scores]) -> ChoicesDecision:
        """Decide by `normalized_prompt_logprobs`; the first of equals."""
        best = _argmax(scores["normalized_prompt_logprobs"])
        return ChoicesDecision(scores["choices"][best], _told(scores))


class GreedyTokenSelection(ChoicesSamplingMethod):
    """The choice that greedy decoding would go to, token by token.

    A choice that has ended goes on with its own mean, so that it can be compared with one it is the beginning of.

    >>> method = bw.greedy_token_selection
    >>> bw.function(lambda: bw.select("mood", [" good", " bad"], choices_method=method)).run()["mood"]
    ' good'
    """

    def __call__(self, **scores: Unpack[Scores]) -> ChoicesDecision:
        """Decide position by position; the first of those that stay equal."""
        rows = [[entry[0] for entry in tokens] for tokens in scores["input_token_logprobs"]]
        width = max(map(len, rows))
        matrix = [row + [_mean(row)] * (width - len(row)) for row in rows]
        remaining = list(range(len(matrix)))
        for position in range(width):
            best = max(matrix[i][position] for i in remaining)
            remaining = [i for i in remaining if matrix[i][position] == best]
            if len(remaining) == 1:
                break
        told = _told(scores) | {"greedy_logprob_matrix": matrix}
        return ChoicesDecision(scores["choices"][remaining[0]], told)


class UnconditionalLikelihoodNormalized(ChoicesSamplingMethod):
    """The choice that the prompt makes most likelier than it is by itself, per token.

    >>> method = bw.unconditional_likelihood_normalized
    >>> bw.function(lambda: bw.select("mood", [" good", " bad"], choices_method=method)).run()["mood"]
    ' good'
    """

    @property
    def requires_unconditional_logprobs(self) -> bool:
        """True."""
        return True

    def __call__(self, **scores: Unpack[Scores]) -> ChoicesDecision:
        """Decide by the mean difference of both log-probabilities; raises ValueError without the second."""
        alone = scores.get("unconditional_token_logprobs")
        if alone is None:
            raise ValueError(
                "unconditional_likelihood_normalized needs unconditional_token_logprobs"
            )
        pairs = zip(scores["input_token_logprobs"], alone, strict=True)
        gains = [_mean_gain(given, by_itself) for given, by_itself in pairs]
        told = _told(scores) | {
            "unconditional_token_logprobs": alone,
            "normalized_unconditional_prompt_logprobs": gains,
        }
        return ChoicesDecision(scores["choices"][_argmax(gains)], told)


token_length_normalized = TokenLengthNormalized()
greedy_token_selection = GreedyTokenSelection()
unconditional_likelihood_normalized = UnconditionalLikelihoodNormalized()

BY_NAME: dict[str, ChoicesSamplingMethod] = {
    "token_length_normalized": token_length_normalized,
    "greedy_token_selection": greedy_token_selection,
    "unconditional_likelihood_normalized": unconditional_likelihood_normalized,
}

Method = str | Callable[..., "ChoicesDecision | str"]


def named(method: Method) -> Method:
    """The runtime's own name of `method` where it has one, else `method`; raises ProgramError for an unknown name."""
    if isinstance(method, str):
        if method not in BY_NAME:
            raise ProgramError(
                f"choices_method {method!r} is none of {', '.join(BY_NAME)}, nor a function"
            )
        return method
    for name, known in BY_NAME.items():
        if method is known:
            return name
    if not callable(method):
        raise ProgramError(
            f"choices_method must be a name or a function, not {type(method).__name__}"
        )
    return method


def decide(
    method: Callable[..., "ChoicesDecision | str"], scores: Sequence[wire.ChoiceScore]
) -> str:
    """The text that a caller's own `method` chooses. Raises ProgramError when it is none of the choices."""
    chosen = method(**_keywords(scores))
    text = chosen if isinstance(chosen, str) else chosen.decision
    if text not in {score.text for score in scores}:
        raise ProgramError(f"the choices_method chose {text!r}, which is none of the choices")
    return text


def meta_info(method: Method, scores: Sequence[wire.ChoiceScore]) -> dict[str, Any]:
    """What SGLang tells of a select, from the scores that came back."""
    keywords = _keywords(scores)
    known = BY_NAME.get(method) if isinstance(method, str) else None
    if known is None:
        return {name: value for name, value in keywords.items() if name != "choices"}
    return known(**keywords).meta_info or {}


def _keywords(scores: Sequence[wire.ChoiceScore]) -> Scores:
    inputs = [_entries(score.logprobs) for score in scores]
    alone = [_entries(score.unconditional) for score in scores]
    return {
        "choices": [score.text for score in scores],
        "normalized_prompt_logprobs": [_mean([entry[0] for entry in tokens]) for tokens in inputs],
        "input_token_logprobs": inputs,
        "output_token_logprobs": [[] for _ in scores],
        "unconditional_token_logprobs": alone if all(alone) else None,
    }


def _entries(tokens: Sequence[wire.TokenLogprob]) -> list[TokenEntry]:
    return [
        (token.logprob, token.token_id, token.data.decode("utf-8", "replace")) for token in tokens
    ]


def _told(scores: Scores) -> dict[str, Any]:
    """What every method tells of its decision."""
    return {
        "normalized_prompt_logprobs": scores["normalized_prompt_logprobs"],
        "input_token_logprobs": scores["input_token_logprobs"],
        "output_token_logprobs": scores["output_token_logprobs"],
    }


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _mean_gain(given: Sequence[TokenEntry], alone: Sequence[TokenEntry]) -> float:
    # The first token has no likelihood without anything before it; it counts as certain.
    return _mean([(a[0] or 0.0) - (b[0] or 0.0) for a, b in zip(given, alone, strict=True)])
