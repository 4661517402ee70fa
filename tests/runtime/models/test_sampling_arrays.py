"""Samples as arrays: what is kept from the step before is what would be made anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from branchwork.kernels.api import SamplingRows
from branchwork.runtime.models.sampling import SampleRows, sampling_rows
from branchwork.runtime.plan import Sample, Sampler

VOCAB = 70

SAMPLERS = (
    Sampler(0.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, 1, ()),
    Sampler(0.7, 0.9, 5, 0.1, 0.0, 0.0, 1.0, 2**63 + 3, ((3, 1.5), (69, -2.0)), (2,)),
    Sampler(1.0, 1.0, 0, 0.0, 0.5, 0.0, 1.0, 3, ()),
)


def make_sample(kind: int, position: int, masked: bool, banned: bool) -> Sample:
    sampler = SAMPLERS[kind]
    mask = np.full(3, position, np.int32) if masked else None
    sample = Sample(sampler, position, mask, (1, 4) if banned else ())
    return sample._replace(context=(5, 6), generated=(6,)) if sampler.has_penalties else sample


samples = st.builds(
    make_sample,
    st.integers(0, 2),
    st.integers(0, 1000),
    st.booleans(),
    st.sampled_from([False] * 5 + [True]),
)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.lists(samples, min_size=1, max_size=4)), max_size=6)
)
def test_rows_made_step_after_step_are_those_made_anew(
    steps: list[tuple[int, list[Sample]]],
) -> None:
    rows = SampleRows(VOCAB)
    for times, asked in steps:
        for step in range(times):
            now = [sample._replace(position=sample.position + step) for sample in asked]
            made, anew = rows.of(now), sampling_rows(now, VOCAB)
            for left, right in zip(_read(made), _read(anew), strict=True):
                assert left.dtype == right.dtype
                assert np.array_equal(left, right)


def _read(rows: SamplingRows) -> SamplingRows:
    """Without what is never read: the masks of rows that have none."""
    return rows._replace(mask=rows.mask[rows.has_mask]) if rows.has_mask.any() else rows
