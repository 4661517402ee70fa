import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from branchwork.runtime.models.batch import make_batch
from branchwork.runtime.plan import Plan, Segment


@given(
    st.lists(
        st.tuples(st.integers(0, 999), st.sampled_from([1, 1, 1, 2, 7])), min_size=1, max_size=9
    )
)
def test_a_batch_holds_every_token_at_its_place(requests: list[tuple[int, int]]) -> None:
    segments, tokens = [], []
    for row, (start, count) in enumerate(requests):
        ids = tuple(range(10 * row, 10 * row + count))
        slots = np.arange(100 * row, 100 * row + count, dtype=np.int32)
        segments.append(Segment(row + 3, start, ids, slots))
        tokens += [(row, start + place, ids[place], slots[place]) for place in range(count)]
    batch = make_batch(Plan(tuple(segments)))
    arrays = (
        batch.token_ids,
        batch.positions,
        batch.slots,
        batch.rows,
        batch.query_start,
        batch.kv_len,
    )
    assert all(array.dtype == np.int32 and array.flags.c_contiguous for array in arrays)
    assert [(*one,) for one in zip(batch.positions, batch.token_ids, batch.slots, strict=True)] == [
        one[1:] for one in tokens
    ]
    assert batch.rows.tolist() == [row + 3 for row in range(len(requests))]
    assert batch.kv_len.tolist() == [start + count for start, count in requests]
    assert batch.query_start[0] == 0
    assert np.diff(batch.query_start).tolist() == [count for _, count in requests]
    assert batch.max_position == max(one[1] for one in tokens)
