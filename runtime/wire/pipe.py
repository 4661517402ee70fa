"""Waiting for what comes through a pipe."""

import select

# poll counts milliseconds in 32 bits.
_LONGEST_S = 1e6


def is_readable_within(fd: int, timeout_s: float) -> bool:
    """Wait until `fd` has something to read or is at its end, for so long at most; whether it is so.

    `select` would do for the descriptors below 1,024; a process with so many connections has others.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(1000 * min(max(0.0, timeout_s), _LONGEST_S)))
