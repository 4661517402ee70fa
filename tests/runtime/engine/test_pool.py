import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwork.runtime.engine.pool import SlotPool


def allocate(pool: SlotPool, count: int) -> list[int]:
    slots = pool.allocate(count)
    assert slots is not None
    return slots.tolist()  # type: ignore[no-any-return]


def free(pool: SlotPool, *slots: int) -> None:
    pool.free(np.array(slots, np.int32))


def test_a_fresh_pool_gives_contiguous_slots() -> None:
    pool = SlotPool(8)
    assert allocate(pool, 3) == [0, 1, 2]
    assert allocate(pool, 5) == [3, 4, 5, 6, 7]


def test_allocation_is_all_or_nothing() -> None:
    pool = SlotPool(4)
    assert pool.allocate(5) is None
    assert pool.num_free == 4
    assert allocate(pool, 4) == [0, 1, 2, 3]


def test_the_smallest_run_that_fits_is_taken() -> None:
    pool = SlotPool(12)
    allocate(pool, 12)
    free(pool, 0, 1, 2, 3, 4)
    free(pool, 8, 9)
    assert allocate(pool, 2) == [8, 9]
    assert allocate(pool, 4) == [0, 1, 2, 3]


def test_scattered_slots_serve_when_no_run_is_long_enough() -> None:
    pool = SlotPool(6)
    allocate(pool, 6)
    free(pool, 0, 2, 4)
    assert sorted(allocate(pool, 3)) == [0, 2, 4]


def test_neighbouring_free_runs_join() -> None:
    pool = SlotPool(6)
    allocate(pool, 6)
    free(pool, 0, 1)
    free(pool, 4, 5)
    free(pool, 3, 2)
    assert allocate(pool, 6) == [0, 1, 2, 3, 4, 5]


def test_freeing_twice_is_caught() -> None:
    pool = SlotPool(4)
    allocate(pool, 2)
    free(pool, 0)
    with pytest.raises(AssertionError, match="freed twice"):
        free(pool, 0)


@given(st.lists(st.integers(0, 9), max_size=60), st.randoms(use_true_random=False))
def test_a_pool_equals_a_set_of_free_slots(
    counts: list[int], random: "np.random.Generator"
) -> None:
    pool = SlotPool(24)
    model, held = set(range(24)), []
    for count in counts:
        if count == 0 and held:
            slots = held.pop(random.randrange(len(held)))  # type: ignore[attr-defined]
            random.shuffle(slots)
            free(pool, *slots)
            model |= set(slots)
        else:
            got = pool.allocate(count)
            assert (got is None) == (count > len(model))
            if got is not None:
                assert set(got.tolist()) <= model
                assert len(got) == count
                model -= set(got.tolist())
                held.append(got.tolist())
        pool.check()
        assert pool.num_free == len(model)
