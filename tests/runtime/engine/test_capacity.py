import pytest

from branchwork.runtime.engine.capacity import Capacity
from branchwork.runtime.wire.errors import RequestTooLong


@pytest.mark.parametrize(
    ("capacity", "message"),
    [
        (
            Capacity(4096, 10_000, max_len_is_set=True),
            "prompt is 4210 tokens, the server holds 4096 (--max-len); "
            "shorten it or restart with --max-len 8192",
        ),
        (
            Capacity(4096, 10_000),
            "prompt is 4210 tokens, the server holds 4096 (--max-len); shorten it",
        ),
        (
            Capacity(8192, 1000),
            "prompt is 4210 tokens, the KV pool holds 1000 (--kv-slots); "
            "shorten it or restart with --kv-slots 8192",
        ),
    ],
)
def test_too_long_names_both_numbers_and_what_to_change(capacity: Capacity, message: str) -> None:
    with pytest.raises(RequestTooLong) as raised:
        capacity.check(4210)
    assert str(raised.value) == message


def test_what_fits_exactly_is_taken() -> None:
    Capacity(64, 128).check(64)
    Capacity(128, 64).check(64)
