"""Who waits, and in which order the waiting are let in."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from branchwork.runtime.engine.buffer import common_len
from branchwork.runtime.engine.cache import PrefixCache
from branchwork.runtime.engine.radix import Found
from branchwork.runtime.engine.request import Req

# The best order among thousands is not worth a pass's time; so many of each priority are ordered.
MAX_CANDIDATES = 64

# Below this, computing a shared run of tokens twice costs less than letting the second request wait a pass.
MIN_TWIN_TOKENS = 32


class WaitingQueue:
    """Requests that wait: by priority, in lines of one program each, and there by arrival; retracted ones in front.

    Programs take turns: one that has just had a request let in comes after the others. So of any number of programs
    with any number of requests, each is looked at in time, and one with a thousand holds up nobody's single one.
    """

    def __init__(self) -> None:
        self._of: dict[int, dict[object, dict[Req, None]]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Req]:
        return chain.from_iterable(
            line for programs in self._of.values() for line in programs.values()
        )

    def __contains__(self, req: Req) -> bool:
        return req in self._of.get(req.priority, {}).get(req.program, ())

    @property
    def highest_priority(self) -> int:
        """Of those that wait; there must be one."""
        return max(self._of)

    def add(self, req: Req) -> None:
        """A new request, behind those of its program and priority."""
        self._of.setdefault(req.priority, {}).setdefault(req.program, {})[req] = None
        self._length += 1

    def put_back(self, req: Req) -> None:
        """A request that ran before, in front of those of its priority."""
        programs = self._of.get(req.priority, {})
        line = programs.pop(req.program, {})
        self._of[req.priority] = {req.program: {req: None, **line}, **programs}
        self._length += 1

    def remove(self, req: Req) -> None:
        """Take a request out; it was its program's turn."""
        programs = self._of[req.priority]
        line = programs.pop(req.program)
        del line[req]
        if line:
            programs[req.program] = line
        elif not programs:
            del self._of[req.priority]
        self._length -= 1

    def candidates(self) -> list[Req]:
        """Of each priority the first of every program, then the second ones, and so on, as many as are looked at."""
        found: list[Req] = []
        for programs in self._of.values():
            most = len(found) + MAX_CANDIDATES
            lines = [iter(line) for line in islice(programs.values(), MAX_CANDIDATES)]
            while lines and len(found) < most:
                heads = [(line, head) for line in lines if (head := next(line, None)) is not None]
                found += [head for _, head in heads[: most - len(found)]]
                lines = [line for line, _ in heads]
        return found


class Order:
    """The order of admission, pass after pass.

    First by priority, which grows by one every `aging_steps` passes of waiting. Then fair between programs: the one
    with fewer running requests goes first. Then the longest cached prefix, which is the depth-first order of the
    prefix tree (SGLang, theorem 3.1: it reaches the best hit rate). Then age.

    But whoever has been the oldest of the highest for `aging_steps` passes goes first, once. So a request is passed
    over in that many passes at most for each that was there before it, however many with better prefixes come at the
    same time; and all others keep the order that finds most in the cache.
    """

    def __init__(self, aging_steps: int) -> None:
        self._aging_steps = aging_steps
        self._oldest: Req | None = None
        self._last_turn = 0  # the pass at which an oldest one was let in

    def of(
        self, candidates: list[Req], running: Iterable[Req], cache: PrefixCache, step: int
    ) -> list[Req]:
        """The candidates, first come those who are to be let in first."""
        for req in candidates:
            find(req, cache)

        def standing(req: Req) -> int:
            return -(req.priority + (step - req.since) // self._aging_steps)

        def cached(req: Req) -> int:
            return req.found.length if req.found is not None else 0

        candidates = sorted(candidates, key=lambda req: (standing(req), -cached(req), req.arrival))
        turns: Counter[object] = Counter(req.program for req in running)
        turn: dict[Req, int] = {}
        for req in candidates:
            turn[req] = turns[req.program]
            turns[req.program] += 1
        candidates.sort(key=lambda req: (standing(req), turn[req]))
        oldest = min(candidates, key=lambda req: (standing(req), req.since, req.arrival))
        if step - max(self._last_turn, oldest.since) >= self._aging_steps:
            candidates.remove(oldest)
            candidates.insert(0, oldest)
        self._oldest = oldest
        return candidates

    def admitted(self, req: Req, step: int) -> None:
        """A request was let in."""
        if req is self._oldest:
            self._last_turn = step


def find(req: Req, cache: PrefixCache) -> Found:
    """The request's longest cached prefix, looked up again only if the tree has changed."""
    if req.found is None or req.found_generation != cache.tree.generation:
        limit = min(len(req.tokens), req.task.reuse_limit())
        req.found = cache.find(req.namespace, req.tokens.view(0, limit))
        req.found_generation = cache.tree.generation
    return req.found


class Twins:
    """The requests whose uncached prompt is being computed now: others that begin the same had better wait for it."""

    def __init__(self, running: Iterable[Req]) -> None:
        self._leaders: dict[tuple[int, int], list[Req]] = {}
        for req in running:
            if req.prefilling:
                self.add(req)

    def add(self, req: Req) -> None:
        """A request that has just been let in."""
        assert req.lease is not None
        if req.lease.shared < req.prefill_end:
            key = (id(req.lease.node), req.tokens[req.lease.shared])
            self._leaders.setdefault(key, []).append(req)

    def of(self, req: Req, found: Found) -> Req | None:
        """A request that is computing a long part of what this one needs and lacks."""
        limit = min(len(req.tokens), req.task.reuse_limit())
        if found.node is None or found.length != found.node.end or found.length >= limit:
            return None
        start = found.length
        for leader in self._leaders.get((id(found.node), req.tokens[start]), ()):
            theirs = leader.tokens.view(start, leader.prefill_end)
            shared = common_len(theirs, req.tokens.view(start, limit))
            if shared >= MIN_TWIN_TOKENS and leader.computed < start + shared:
                return leader
        return None
