import json

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from branchwork.runtime.grammar.machine.equal import is_same_value

scalars = st.none() | st.booleans() | st.integers(-20, 20) | st.text('a"\\,{}[]: ', max_size=3)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)
arrays_and_objects = st.lists(values, max_size=3) | st.dictionaries(
    st.sampled_from(["a", 'b"', "c"]), values, max_size=3
)


def same(first: str, other: str) -> bool:
    text = np.frombuffer(f"{first}, {other}".encode(), np.uint8)
    return bool(is_same_value(text, 0, len(first.encode()), len(first.encode()) + 2))


def shuffled(value: object) -> object:
    """The same value, with the members of its objects in the opposite order."""
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    if isinstance(value, dict):
        return {key: shuffled(member) for key, member in reversed(value.items())}
    return value


@given(arrays_and_objects, arrays_and_objects)
def test_values_are_the_same_exactly_if_json_says_so(first: object, other: object) -> None:
    # As texts: True and 1 are equal in Python.
    ordered = [json.dumps(value, sort_keys=True) for value in (first, other)]
    assert same(json.dumps(first), json.dumps(other)) == (ordered[0] == ordered[1])


@given(arrays_and_objects)
def test_neither_blanks_nor_the_order_of_members_tell_values_apart(value: object) -> None:
    assert same(json.dumps(value), json.dumps(shuffled(value), indent=1, separators=(" ,", " :\t")))
