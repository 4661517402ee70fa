"""A job goes to whoever does it sooner, and a team that begins to wait is let go at once."""

from branchwork.kernels.cpu.choice import AGAIN, LATER, TeamChoice


def work(choice: TeamChoice, count: int, alone: float, team: float, size: int = 1) -> list[bool]:
    """So many jobs, and who did them."""
    chosen = []
    for _ in range(count):
        by_team = choice.next_is_team(size)
        choice.took(size, by_team, team if by_team else alone)
        chosen.append(by_team)
    return chosen


def test_both_ways_are_tried_and_the_sooner_is_kept() -> None:
    for alone, team in ((1.0, 0.6), (0.6, 1.0)):
        chosen = work(TeamChoice(), AGAIN - 1, alone, team)
        assert chosen[:2] == [False, True]
        assert set(chosen[2:]) == {team < alone}


def test_a_team_that_waits_for_a_core_is_let_go_at_once_and_tried_again_later() -> None:
    choice = TeamChoice()
    work(choice, 40, 1.0, 0.6)
    chosen = work(choice, 3 * LATER, 1.0, 15.0)
    assert chosen[:3] == [True, True, False]
    assert sum(chosen) <= 8
    assert sum(work(choice, 2 * LATER, 1.0, 0.6)) > LATER


def test_two_slow_tries_do_not_keep_a_team_away_for_long() -> None:
    choice = TeamChoice()
    assert sum(work(choice, AGAIN + 2, 1.0, 15.0)) == 2  # somebody else needed its core both times
    assert sum(work(choice, 4 * AGAIN, 1.0, 0.6)) > AGAIN


def test_sizes_are_apart() -> None:
    choice = TeamChoice()
    work(choice, 20, 1.0, 0.5, size=1)
    assert set(work(choice, 20, 0.5, 1.0, size=2)[2:]) == {False}
    assert set(work(choice, 20, 1.0, 0.5, size=1)) == {True}
