"""Work on rows in groups, each with weights of its own, whose sizes only the device knows: experts, and adapters.

A block of threads belongs to one group. Which one, and which of its members, each program works out from the counts, so
the launch is the same however rows are spread, and the host never waits for a count (Gale et al. 2023).

    blocks   g0 g0 g0 │ g2 │ g3 g3 │ …      a group without members has none; those that nobody needs leave at once
"""

import triton
import triton.language as tl


@triton.jit
def members_of_block(
    count, members, block, num_rows, GROUPS: tl.constexpr, PADDED: tl.constexpr, BLOCK_ROWS: tl.constexpr
):  # fmt: skip
    """The group that a block belongs to (from GROUPS on: none), BLOCK_ROWS of its members, and which of them there are.

    count  [GROUPS]; members [GROUPS, num_rows]
    """
    number = tl.arange(0, PADDED)
    counts = tl.load(count + number, mask=number < GROUPS, other=0)
    blocks = (counts + BLOCK_ROWS - 1) // BLOCK_ROWS
    group = tl.sum((tl.cumsum(blocks, 0) <= block).to(tl.int32), 0)
    first = block - tl.sum(tl.where(number < group, blocks, 0), 0)
    row = first * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    real = row < tl.sum(tl.where(number == group, counts, 0), 0)
    member = tl.load(members + group.to(tl.int64) * num_rows + row, mask=real, other=0)
    return group, member, real


def num_blocks(num_members: int, num_groups: int, block_rows: int) -> int:
    """Blocks that so many members need at most: each group that has any has one that is not full, at most."""
    return num_members // block_rows + min(num_members, num_groups)
