"""Code points as sequences of byte ranges."""

import functools

Sequence = tuple[tuple[int, int], ...]


@functools.lru_cache(maxsize=65_536)
def utf8_ranges(low: int, high: int) -> tuple[Sequence, ...]:
    """The code points `low` to `high` in UTF-8, without surrogates (as in RE2's UTF-8 compilation)."""
    found: list[Sequence] = []
    stack = [(low, high)]
    while stack:
        low, high = stack.pop()
        if low > high:
            continue
        if low <= 0xDFFF and high >= 0xD800:
            stack += [(0xE000, high), (low, 0xD7FF)]
            continue
        cut = _cut(low, high)
        if cut is not None:
            stack += [(cut + 1, high), (low, cut)]
            continue
        found.append(tuple(zip(chr(low).encode(), chr(high).encode(), strict=True)))
    return tuple(found)


def _cut(low: int, high: int) -> int | None:
    """Where a range must be cut so that its encodings form one product of byte ranges; None if they do."""
    for last_of_length in (0x7F, 0x7FF, 0xFFFF):
        if low <= last_of_length < high:
            return last_of_length
    if high <= 0x7F:
        return None
    for bits in (6, 12, 18):
        mask = (1 << bits) - 1
        if low & ~mask != high & ~mask:
            if low & mask:
                return low | mask
            if high & mask != mask:
                return (high & ~mask) - 1
    return None
