import numpy as np

from branchwork.runtime.engine.admission import MAX_CANDIDATES, Order, Twins, WaitingQueue, find
from branchwork.runtime.engine.buffer import IntBuffer
from branchwork.runtime.engine.cache import Lease, PrefixCache
from branchwork.runtime.engine.radix import Namespace
from branchwork.runtime.engine.request import Req
from branchwork.runtime.engine.selection import Scoring

SPACE = Namespace()


def make_req(
    tokens: range, priority: int = 0, arrival: int = 0, since: int = 0, program: object = 0
) -> Req:
    req = Req(IntBuffer(tokens), Scoring(len(tokens), (1,)), SPACE, priority, program)
    req.arrival, req.since = arrival, since
    return req


def test_a_queue_keeps_the_order_of_arrival_and_puts_the_retracted_in_front() -> None:
    queue = WaitingQueue()
    first, second, back = (make_req(range(3)) for _ in range(3))
    queue.add(first)
    queue.add(second)
    queue.put_back(back)
    assert list(queue) == [back, first, second]
    queue.remove(first)
    assert (len(queue), first in queue, second in queue) == (2, False, True)


def test_candidates_are_the_front_of_every_priority() -> None:
    queue = WaitingQueue()
    for _ in range(MAX_CANDIDATES + 10):
        queue.add(make_req(range(3)))
    urgent = make_req(range(3), priority=1)
    queue.add(urgent)
    assert len(queue.candidates()) == MAX_CANDIDATES + 1
    assert urgent in queue.candidates()


def test_candidates_are_one_of_every_program_before_a_second_of_any() -> None:
    queue = WaitingQueue()
    many = [make_req(range(3), program="many") for _ in range(1000)]
    few = [make_req(range(3), program="few") for _ in range(2)]
    for req in (*many, *few):
        queue.add(req)
    found = queue.candidates()
    assert found[:5] == [many[0], few[0], many[1], few[1], many[2]]
    assert len(found) == MAX_CANDIDATES


def test_every_program_is_a_candidate_in_time_however_many_there_are() -> None:
    queue = WaitingQueue()
    for _ in range(20):
        for program in range(3 * MAX_CANDIDATES):
            queue.add(make_req(range(3), program=program))
    last = make_req(range(3), program="last")
    queue.add(last)
    admitted = 0
    while last not in queue.candidates():
        queue.remove(queue.candidates()[0])
        admitted += 1
    assert admitted == 3 * MAX_CANDIDATES - MAX_CANDIDATES + 1


def test_age_counts_like_priority() -> None:
    cache = PrefixCache(100)
    old = make_req(range(3), arrival=1, since=0)
    urgent = make_req(range(3), priority=2, arrival=2, since=100)
    assert Order(64).of([urgent, old], [], cache, step=100) == [urgent, old]
    assert Order(64).of([urgent, old], [], cache, step=130) == [old, urgent]


def test_the_oldest_has_its_turn_after_so_many_passes_and_then_the_next_oldest() -> None:
    cache = PrefixCache(100)
    lease = Lease(cache, SPACE, np.arange(5, dtype=np.int32))
    lease.reserve(5)
    lease.close(np.arange(5, dtype=np.int32))
    first, second = make_req(range(50, 60), arrival=1), make_req(range(60, 70), arrival=2)
    hot = make_req(range(10), arrival=3)
    order = Order(64)
    assert order.of([first, second, hot], [], cache, step=63) == [hot, first, second]
    assert order.of([first, second, hot], [], cache, step=64) == [first, hot, second]
    order.admitted(first, 64)
    assert order.of([second, hot], [], cache, step=127) == [hot, second]
    assert order.of([second, hot], [], cache, step=128) == [second, hot]


def test_a_lookup_is_repeated_only_when_the_tree_has_changed() -> None:
    cache = PrefixCache(100)
    req = make_req(range(10))
    first = find(req, cache)
    assert find(req, cache) is first
    lease = Lease(cache, SPACE, np.arange(5, dtype=np.int32))
    lease.reserve(5)
    lease.close(np.arange(5, dtype=np.int32))
    assert find(req, cache).length == 5


def test_a_twin_is_found_by_the_long_part_that_both_lack() -> None:
    cache = PrefixCache(1000)
    leader, twin, other = make_req(range(100)), make_req(range(90)), make_req(range(5, 50))
    leader.lease = Lease(cache, SPACE, np.empty(0, np.int32))
    leader.prefill_end = 100
    twins = Twins([leader])
    assert twins.of(twin, find(twin, cache)) is leader
    assert twins.of(other, find(other, cache)) is None
    leader.computed = 95
    assert twins.of(twin, find(twin, cache)) is None
