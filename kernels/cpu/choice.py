"""Whether one thread or a team does a small job sooner: found out as the jobs go by.

No table says it. On two cores that nobody else needs, a team shortens a job of a millisecond by a third; where a core
is lent to another process, all of a team wait for it at every barrier, and the same job takes ten times as long.
"""

from dataclasses import dataclass, field

# Weight of the newest job in what is remembered; one that took far longer than others counts as this many of them.
NEWEST = 0.2
LONGEST = 4.0

# Jobs until the slower way is tried again. Where it is so much slower that trying costs something, twice as many each
# time, up to `LATER`: one try may have met another process that needed the core for a moment.
AGAIN, LATER = 64, 512
FAR = 1.5


@dataclass(slots=True)
class Ways:
    """What jobs of one size take: by one thread, and by the team. In seconds; None: not tried yet."""

    took: list[float | None] = field(default_factory=lambda: [None, None])
    until_tried: int = AGAIN
    pause: int = AGAIN


class TeamChoice:
    """Chooses for each job of a size; `took` must follow `next_is_team`."""

    def __init__(self) -> None:
        self._sizes: dict[int, Ways] = {}

    def next_is_team(self, size: int) -> bool:
        """Whether the team is to do the next job of a size (any number by which jobs are alike)."""
        ways = self._sizes.setdefault(size, Ways())
        alone, team = ways.took
        if alone is None or team is None:
            return alone is not None
        sooner = team < alone
        ways.until_tried -= 1
        if ways.until_tried > 0:
            return sooner
        slower, faster = max(alone, team), min(alone, team)
        ways.pause = min(2 * ways.pause, LATER) if slower > FAR * faster else AGAIN
        ways.until_tried = ways.pause
        return not sooner

    def took(self, size: int, by_team: bool, seconds: float) -> None:
        """What the job has taken."""
        known = self._sizes[size].took
        before, other = known[by_team], known[not by_team]
        if before is None or other is None or before > other:
            known[by_team] = seconds  # what was known of the slower way is old
        else:
            known[by_team] = before + NEWEST * (min(seconds, LONGEST * before) - before)
