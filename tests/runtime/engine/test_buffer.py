import random

import numpy as np
import pytest

from branchwork.runtime.engine.buffer import IntBuffer, common_len


def ints(*values: int) -> "np.typing.NDArray[np.int32]":
    return np.array(values, np.int32)


def test_a_buffer_holds_what_was_appended_across_growth() -> None:
    buffer = IntBuffer([1, 2])
    for value in range(100):
        buffer.append(value)
    buffer.extend((7, 8))
    buffer.extend(ints(9))
    assert buffer.ids(0, len(buffer)) == (1, 2, *range(100), 7, 8, 9)
    assert buffer[-1] == 9
    assert buffer[2] == 0


def test_truncate_forgets_the_end_only() -> None:
    buffer = IntBuffer([1, 2, 3])
    buffer.truncate(1)
    buffer.append(5)
    assert buffer.ids(0, 2) == (1, 5)


def test_a_copy_is_independent() -> None:
    buffer = IntBuffer([1, 2, 3])
    copy = buffer.copy()
    buffer.truncate(0)
    copy.append(4)
    assert copy.ids(0, 4) == (1, 2, 3, 4)
    assert len(buffer) == 0


def test_an_index_past_the_length_is_an_error_even_inside_the_capacity() -> None:
    with pytest.raises(IndexError):
        IntBuffer([1])[1]


@pytest.mark.parametrize(
    ("left", "right", "length"),
    [
        ((), (1,), 0),
        ((1,), (2,), 0),
        ((1, 2), (1, 2, 3), 2),
        ((1, 2, 3), (1, 2, 4), 2),
        ((1, 2), (1, 2), 2),
    ],
)
def test_common_len_is_the_length_of_the_common_prefix(
    left: tuple[int, ...], right: tuple[int, ...], length: int
) -> None:
    assert common_len(ints(*left), ints(*right)) == length


def test_ten_thousand_copies_take_the_memory_of_one() -> None:
    tokens = IntBuffer(range(10_000))
    copies = [tokens.copy() for _ in range(10_000)]
    assert all(copy._data is tokens._data for copy in copies)


def test_copies_of_copies_never_see_what_another_one_writes() -> None:
    choose = random.Random(0)
    buffers, lists = [IntBuffer(range(5))], [list(range(5))]
    for _ in range(5_000):
        index, action = choose.randrange(len(buffers)), choose.random()
        buffer, values = buffers[index], lists[index]
        if action < 0.3:
            value = choose.randrange(100)
            buffer.append(value)
            values.append(value)
        elif action < 0.5:
            more = choose.choices(range(100), k=choose.randint(0, 20))
            buffer.extend(more)
            values += more
        elif action < 0.7:
            length = choose.randint(0, len(values))
            buffer.truncate(length)
            del values[length:]
        elif len(buffers) < 12:
            buffers.append(buffer.copy())
            lists.append(values.copy())
        else:
            del buffers[index], lists[index]
        for one, expected in zip(buffers, lists, strict=True):
            assert one.ids(0, len(one)) == tuple(expected)
