import numpy as np

from branchwork.runtime.engine.buffer import IntBuffer
from branchwork.runtime.engine.cache import Lease, PrefixCache
from branchwork.runtime.engine.radix import Namespace
from branchwork.runtime.engine.request import Req
from branchwork.runtime.engine.selection import Scoring
from branchwork.runtime.engine.sharing import shared_prefixes
from branchwork.runtime.plan import SharedPrefix

SPACE = Namespace()


def cached(cache: PrefixCache, *runs: range) -> list[int]:
    tokens = [token for run in runs for token in run]
    array = np.array(tokens, np.int32)
    lease = Lease(cache, SPACE, array)
    assert lease.reserve(len(tokens))
    lease.close(array)
    return tokens


def running(cache: PrefixCache, row: int, tokens: list[int]) -> Req:
    req = Req(IntBuffer(tokens), Scoring(1, (1,)), SPACE)
    req.row, req.lease = row, Lease(cache, SPACE, np.array(tokens, np.int32))
    return req


def test_requests_below_one_node_share_its_length() -> None:
    cache = PrefixCache(1000)
    tokens = cached(cache, range(100))
    reqs = [running(cache, row, tokens) for row in range(3)]
    assert shared_prefixes(reqs) == (SharedPrefix((0, 1, 2), 100),)


def test_short_prefixes_and_lone_requests_share_nothing() -> None:
    cache = PrefixCache(1000)
    short, long = cached(cache, range(40)), cached(cache, range(200, 300))
    reqs = [running(cache, 0, short), running(cache, 1, short), running(cache, 2, long)]
    assert shared_prefixes(reqs) == ()


def test_each_request_joins_the_group_that_saves_most() -> None:
    cache = PrefixCache(10_000)
    left = cached(cache, range(100), range(1000, 1500))
    right = cached(cache, range(100), range(2000, 2010))
    reqs = [running(cache, row, left) for row in (0, 1)]
    reqs += [running(cache, row, right) for row in (2, 3)]
    assert set(shared_prefixes(reqs)) == {SharedPrefix((0, 1), 600), SharedPrefix((2, 3), 100)}
