"""Which requests a step serves, in which order, and what happens when memory runs out."""

import numpy as np

from branchwork.runtime.engine.buffer import IntBuffer
from branchwork.runtime.engine.cache import PrefixCache
from branchwork.runtime.engine.radix import Namespace
from branchwork.runtime.engine.request import Ask, Req
from branchwork.runtime.engine.scheduler import Scheduler
from branchwork.runtime.plan import Plan, Sampler, Scored, SegmentResult, StepResult
from branchwork.runtime.plan import Sample as PlanSample
from branchwork.runtime.wire.config import RuntimeConfig

SAMPLER = Sampler(0.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, 0, ())


class Count:
    """A task that adds the numbers 1000, 1001, … to its tokens, `jump` of them at a time."""

    def __init__(self, tokens: IntBuffer, num_new: int, jump: int) -> None:
        self.jump = jump
        self.tokens = tokens
        self.left = num_new
        self.next = 1000

    def reuse_limit(self) -> int:
        return len(self.tokens) - 1

    def remaining(self) -> int:
        return self.left

    def ask(self, start: int, stop: int) -> Ask:
        return Ask(PlanSample(SAMPLER, stop) if stop == len(self.tokens) else None)

    def take(self, start: int, stop: int, result: SegmentResult) -> bool:
        if result.sampled is None:
            return False
        for _ in range(self.jump):
            self.tokens.append(self.next)
            self.next += 1
            self.left -= 1
        return self.left == 0


def make_scheduler(num_slots: int = 1000, **config: int | bool) -> Scheduler:
    config = {"growth_reserve": 0, **config}
    cache = PrefixCache(num_slots, bool(config.pop("prefix_cache", True)))
    return Scheduler(RuntimeConfig(**config), cache, lambda: 0.0)  # type: ignore[arg-type]


def make_req(
    tokens: "list[int] | range",
    num_new: int = 1,
    priority: int = 0,
    program: int = 0,
    jump: int = 1,
) -> Req:
    buffer = IntBuffer(tokens)
    return Req(buffer, Count(buffer, num_new, jump), Namespace(), priority, program)


def submit(scheduler: Scheduler, *reqs: Req) -> None:
    for req in reqs:
        scheduler.submit(req)


def commit(scheduler: Scheduler, plan: Plan) -> None:
    results = [
        SegmentResult(Scored(0, 0.0) if segment.sample is not None else None)
        for segment in plan.segments
    ]
    scheduler.commit(plan, StepResult(tuple(results)))
    check(scheduler)


def check(scheduler: Scheduler) -> None:
    leases = [req.lease for req in scheduler.running if req.lease is not None]
    assert len(leases) == len(scheduler.running)
    scheduler.cache.check(leases)


def step(scheduler: Scheduler) -> list[tuple[int, int]]:
    """One pass; returns (start, number of tokens) of each segment."""
    plan = scheduler.plan()
    check(scheduler)
    if plan is None:
        return []
    commit(scheduler, plan)
    return [(segment.start, len(segment.token_ids)) for segment in plan.segments]


def test_a_prompt_is_computed_then_one_token_a_step() -> None:
    scheduler = make_scheduler()
    submit(scheduler, make_req(range(5), num_new=3))
    assert [step(scheduler) for _ in range(4)] == [[(0, 5)], [(5, 1)], [(6, 1)], []]
    assert scheduler.idle
    assert len(scheduler.take_ended()) == 1


def test_a_step_keeps_to_its_token_budget() -> None:
    scheduler = make_scheduler(max_tokens_per_step=16)
    submit(scheduler, make_req(range(40)), make_req(range(100, 110)))
    assert step(scheduler) == [(0, 16)]
    assert step(scheduler) == [(16, 16)]
    assert step(scheduler) == [(32, 8), (0, 8)]


def test_a_prompt_comes_in_chunks_where_others_decode() -> None:
    scheduler = make_scheduler(max_chunk=4)
    submit(scheduler, make_req(range(3), num_new=10))
    step(scheduler)
    submit(scheduler, make_req(range(100, 110)))
    assert step(scheduler) == [(3, 1), (0, 4)]
    assert step(scheduler) == [(4, 1), (4, 4)]
    assert step(scheduler) == [(5, 1), (8, 2)]


def test_where_others_decode_all_prompts_together_take_no_more_time_than_the_pace_allows() -> None:
    scheduler = make_scheduler()
    submit(scheduler, make_req(range(3), num_new=20))
    step(scheduler)
    step(scheduler)
    scheduler._pace.took(0.030, num_decoding=1, num_prompt_tokens=0)
    scheduler._pace.took(0.060, num_decoding=1, num_prompt_tokens=100)
    submit(scheduler, make_req(range(100, 300), num_new=20), make_req(range(500, 600)))
    # Two prompts wait for one that decodes: 0.8 x 30 ms x 2 at 0.3 ms a token.
    assert step(scheduler) == [(4, 1), (0, 160)]
    assert step(scheduler) == [(5, 1), (160, 40), (0, 100)]


def test_more_decoders_than_the_budget_take_turns() -> None:
    scheduler = make_scheduler(max_tokens_per_step=16)
    reqs = [make_req([number], num_new=60, jump=5) for number in range(8)]
    submit(scheduler, *reqs)
    for _ in range(12):
        step(scheduler)
    progress = [len(req.tokens) for req in reqs]
    assert max(progress) - min(progress) <= 3 * 5
    assert min(progress) >= 20


def test_the_last_prompt_token_is_computed_even_when_all_is_cached() -> None:
    scheduler = make_scheduler()
    submit(scheduler, make_req(range(5)))
    step(scheduler)
    submit(scheduler, make_req(range(5)))
    plan = scheduler.plan()
    assert plan is not None
    assert plan.segments[0].start == 4
    assert plan.table_writes[0].slots.tolist() == [0, 1, 2, 3]


def test_without_a_prefix_cache_everything_is_computed() -> None:
    scheduler = make_scheduler(prefix_cache=False)
    for _ in range(2):
        submit(scheduler, make_req(range(5)))
        assert step(scheduler) == [(0, 5)]
    assert scheduler.cache.num_free == 1000


def test_the_longest_cached_prefix_goes_first() -> None:
    scheduler = make_scheduler(max_rows=1)
    submit(scheduler, make_req(range(50)))
    step(scheduler)
    cold, warm = make_req(range(200, 250)), make_req(range(51))
    submit(scheduler, cold, warm)
    step(scheduler)
    assert [ended.req for ended in scheduler.take_ended()][-1] is warm


def test_a_passed_over_request_gets_its_turn_by_age() -> None:
    scheduler = make_scheduler(max_rows=1, aging_steps=5)
    submit(scheduler, make_req(range(50)))
    step(scheduler)
    cold = make_req(range(200, 210))
    submit(scheduler, cold)
    passes = 0
    while not any(ended.req is cold for ended in scheduler.take_ended()):
        submit(scheduler, make_req(range(51)))
        step(scheduler)
        passes += 1
    assert passes == 6


def test_priority_goes_before_the_cached_prefix() -> None:
    scheduler = make_scheduler(max_rows=1)
    submit(scheduler, make_req(range(50)))
    step(scheduler)
    scheduler.take_ended()
    urgent = make_req(range(200, 210), priority=1)
    submit(scheduler, make_req(range(51)), urgent)
    step(scheduler)
    assert [ended.req for ended in scheduler.take_ended()] == [urgent]


def test_programs_share_the_rows_fairly() -> None:
    scheduler = make_scheduler(max_rows=4)
    greedy = [make_req([1, number], num_new=50, program=1) for number in range(10)]
    modest = [make_req([2, number], num_new=50, program=2) for number in range(2)]
    submit(scheduler, *greedy, *modest)
    step(scheduler)
    assert {req.program for req in scheduler.running} == {1, 2}
    assert sum(req.program == 2 for req in scheduler.running) == 2


def test_twins_wait_until_the_first_has_computed_what_they_share() -> None:
    scheduler = make_scheduler()
    submit(scheduler, *(make_req([*range(100), 500 + number]) for number in range(8)))
    assert step(scheduler) == [(0, 101)]
    assert step(scheduler) == [(100, 1)] * 7


def test_a_short_common_prefix_holds_nobody_back() -> None:
    scheduler = make_scheduler()
    submit(scheduler, *(make_req([*range(10), 500 + number]) for number in range(3)))
    assert step(scheduler) == [(0, 11)] * 3


def test_a_twin_is_let_in_when_its_leader_is_cancelled() -> None:
    scheduler = make_scheduler(max_tokens_per_step=16)
    leader, twin = (make_req([*range(100), number]) for number in (500, 501))
    submit(scheduler, leader, twin)
    assert step(scheduler) == [(0, 16)]
    scheduler.cancel(leader)
    assert step(scheduler) == [(16, 16)] or step(scheduler) == [(0, 16)]
    assert scheduler.running == [twin]


def test_when_the_pool_runs_out_the_youngest_goes_back_to_wait() -> None:
    scheduler = make_scheduler(num_slots=16, growth_reserve=0)
    first, second = make_req([1, 2, 3, 4], num_new=10), make_req([5, 6, 7, 8], num_new=10)
    submit(scheduler, first, second)
    order = []
    for _ in range(60):
        step(scheduler)
        order += [ended.req for ended in scheduler.take_ended()]
    assert order == [first, second]
    assert scheduler.counters.retracted >= 1
    for req in (first, second):
        assert req.tokens.ids(4, 14) == tuple(range(1000, 1010))


def test_what_is_retracted_is_found_again_in_the_tree() -> None:
    scheduler = make_scheduler(num_slots=40)
    req = make_req(range(30), num_new=5)
    submit(scheduler, req)
    step(scheduler)
    scheduler._retract(req)
    check(scheduler)
    assert scheduler.cache.num_cached == 30
    assert step(scheduler) == [(30, 1)]


def test_admission_keeps_room_for_the_growth_of_those_that_run() -> None:
    scheduler = make_scheduler(num_slots=32, growth_reserve=10)
    submit(scheduler, make_req([1, 2, 3, 4], num_new=20), make_req([5, 6, 7, 8, 9, 10], num_new=20))
    step(scheduler)
    assert len(scheduler.running) == 2
    submit(scheduler, make_req([7, 8], num_new=1))
    step(scheduler)
    assert len(scheduler.running) == 2
    assert scheduler.counters.retracted == 0


def test_a_big_request_is_not_starved_by_small_ones() -> None:
    scheduler = make_scheduler(num_slots=64, aging_steps=8, growth_reserve=8)
    big = make_req(range(300, 350), num_new=4)
    submit(scheduler, *(make_req([number], num_new=12) for number in range(6)), big)
    for passes in range(200):
        submit(scheduler, make_req([100 + passes], num_new=12))
        step(scheduler)
        if any(ended.req is big for ended in scheduler.take_ended()):
            break
    assert passes < 60


def test_a_higher_priority_preempts_when_there_is_no_row() -> None:
    scheduler = make_scheduler(max_rows=1)
    low, high = make_req([1, 2], num_new=5), make_req([3, 4], num_new=1, priority=2)
    submit(scheduler, low)
    step(scheduler)
    submit(scheduler, high)
    step(scheduler)
    assert [ended.req for ended in scheduler.take_ended()] == [high]
    for _ in range(6):
        step(scheduler)
    assert low.tokens.ids(2, 7) == (1000, 1001, 1002, 1003, 1004)


def test_who_has_waited_is_not_preempted_by_those_it_waited_for() -> None:
    """It was let in by its age, preempted in the same pass, and began to wait anew: for ever."""
    scheduler = make_scheduler(max_rows=1, aging_steps=4)
    low = make_req([1, 2], num_new=3)
    submit(scheduler, low)
    for number in range(40):
        submit(scheduler, make_req([3, number], num_new=1, priority=1))
        step(scheduler)
        if low in [ended.req for ended in scheduler.take_ended()]:
            return
    raise AssertionError("starvation")


def test_cancel_frees_everything_wherever_the_request_is() -> None:
    scheduler = make_scheduler(max_rows=1)
    running, waiting = make_req(range(40), num_new=5), make_req(range(60, 70))
    submit(scheduler, running, waiting)
    step(scheduler)
    scheduler.cancel(waiting)
    scheduler.cancel(running)
    check(scheduler)
    assert scheduler.idle
    assert scheduler.cache.num_locked == 0
    assert scheduler.take_ended() == []


def test_a_task_that_raises_fails_alone() -> None:
    scheduler = make_scheduler()
    good, bad_ask, bad_take = (make_req([number], num_new=3) for number in range(3))

    def broken(*_: object) -> bool:
        raise ValueError("broken")

    bad_ask.task.ask = broken  # type: ignore[method-assign, assignment]
    bad_take.task.take = broken  # type: ignore[method-assign]
    submit(scheduler, good, bad_ask, bad_take)
    for _ in range(4):
        step(scheduler)
    ended = {one.req: one.error for one in scheduler.take_ended()}
    assert ended[good] is None
    assert str(ended[bad_ask]) == str(ended[bad_take]) == "broken"


def test_a_failed_step_fails_its_requests_and_no_others() -> None:
    scheduler = make_scheduler(max_rows=1)
    first, second = make_req([1, 2]), make_req([3, 4])
    submit(scheduler, first, second)
    assert scheduler.plan() is not None
    scheduler.fail_step(RuntimeError("no device"))
    check(scheduler)
    assert scheduler.cache.num_free == 1000
    step(scheduler)
    assert [(one.req, one.error is None) for one in scheduler.take_ended()] == [
        (first, False),
        (second, True),
    ]


def test_requests_on_one_long_prefix_are_a_shared_prefix_group() -> None:
    scheduler = make_scheduler()
    submit(scheduler, make_req(range(100)))
    step(scheduler)
    submit(scheduler, *(make_req([*range(100), number], num_new=3) for number in (300, 301)))
    submit(scheduler, make_req([7, 8, 9], num_new=3))
    plan = scheduler.plan()
    assert plan is not None
    (group,) = plan.shared_prefixes
    assert group.length == 100
    assert len(group.rows) == 2
    commit(scheduler, plan)
    assert scheduler.plan().shared_prefixes == (group,)  # type: ignore[union-attr]


def test_slots_ahead_make_a_decoding_request_lie_in_runs() -> None:
    scheduler = make_scheduler()
    reqs = [make_req([number], num_new=40) for number in range(4)]
    submit(scheduler, *reqs)
    for _ in range(39):
        step(scheduler)
    for req in reqs:
        assert req.lease is not None
        slots = req.lease.slots.view(0, 39)
        assert int((np.diff(slots) != 1).sum()) <= 4
