import pytest

from branchwork.runtime.engine.choices import METHODS, Choice
from branchwork.runtime.wire.messages import TokenLogprob


def choice(text: str, logprobs: list[float], unconditional: list[float | None] = []) -> Choice:  # noqa: B006
    tokens = tuple(range(len(logprobs)))
    return Choice(
        text,
        0,
        tokens,
        [TokenLogprob(0, b"", value) for value in logprobs],
        [TokenLogprob(0, b"", value) for value in unconditional],
    )


def test_token_length_normalized_takes_the_highest_mean() -> None:
    figures, best = METHODS["token_length_normalized"](
        [choice("a", [-0.1]), choice("b", [-0.1, -0.3]), choice("c", [-0.4, -0.01, -0.01, -0.01])]
    )
    assert figures == pytest.approx([-0.1, -0.2, -0.1075])
    assert best == 0


def test_greedy_takes_the_best_first_token_then_the_next() -> None:
    figures, best = METHODS["greedy_token_selection"](
        [choice("a", [-0.4, -0.01]), choice("b", [-0.1, -0.9]), choice("c", [-0.1, -0.5])]
    )
    assert best == 2
    assert figures == [-0.4, -0.9, -0.5]


def test_greedy_lets_a_shorter_choice_go_on_with_its_mean() -> None:
    choices = [choice("organ", [-0.1]), choice("organism", [-0.1, -0.3])]
    assert METHODS["greedy_token_selection"](choices)[1] == 0
    choices = [choice("organ", [-0.1]), choice("organism", [-0.1, -0.05])]
    assert METHODS["greedy_token_selection"](choices)[1] == 1


def test_unconditional_likelihood_takes_what_the_prompt_makes_likelier() -> None:
    figures, best = METHODS["unconditional_likelihood_normalized"](
        [
            choice("a", [-0.1], [None]),
            choice("b", [-0.1, -0.3], [None, -1.4]),
            choice("c", [-0.4, -0.25], [None, -0.25]),
        ]
    )
    assert figures == pytest.approx([-0.1, 0.5, -0.2])
    assert best == 1


def test_equal_figures_go_to_the_first() -> None:
    for method in METHODS.values():
        assert method([choice("a", [-1.0], [None]), choice("b", [-1.0], [None])])[1] == 0
