"""Rounds of a comparison."""

from branchwork.bench.rounds import alternate, medians


def test_all_forms_have_their_turn_in_each_round_and_the_first_round_does_not_count() -> None:
    ran: list[tuple[str, int]] = []

    def run_once(form: str, round_: int) -> int:
        ran.append((form, round_))
        return round_

    assert alternate({"a": "x", "b": "y"}, run_once, 2) == {"a": [1, 2], "b": [1, 2]}
    assert ran == [("x", 0), ("y", 0), ("x", 1), ("y", 1), ("x", 2), ("y", 2)]


def test_medians_are_of_each_figure_by_itself() -> None:
    assert medians([(1.0, 9.0), (2.0, 7.0), (3.0, 8.0)]) == (2.0, 8.0)
