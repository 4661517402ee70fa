"""The committed tuning of the GPU kernels: block sizes, warps and pipeline stages by operation and head dimension.

Nothing is tuned at run time: that would stall the first requests and cannot happen inside a captured graph. All
values here were chosen from the resources that `tests/kernels/budget.json` records (registers, shared memory, blocks
of threads at once) and await their first measurement on a device: docs/performance.md says what is measured.
"""

from dataclasses import dataclass, replace

HEAD_DIMS = (16, 32, 64, 128, 256)
"""What the attention kernels are written for: one tile holds a whole head, so a power of two."""

MAX_SHARED_BYTES = {80: 166_912, 90: 232_448, 100: 232_448}
"""Shared memory one block of threads may have, by compute capability."""


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """How a request's keys are cut into splits and walked through.

    A split has at least `split_keys` keys, and there are at most `max_splits`, so both follow from the length alone.
    `block_rows` (new token, query head) pairs and `block_keys` keys are at hand at a time.
    `few_tokens`: requests with more new tokens than this keep the device busy without splits.
    """

    block_rows: int
    block_keys: int
    split_keys: int
    max_splits: int
    few_tokens: int
    warps: int
    stages: int


DECODE = {
    dim: AttentionConfig(
        block_rows=16, block_keys=64, split_keys=256, max_splits=48, few_tokens=1, warps=4, stages=5
    )
    for dim in HEAD_DIMS
} | {
    256: AttentionConfig(
        block_rows=16, block_keys=32, split_keys=256, max_splits=48, few_tokens=1, warps=4, stages=5
    )
}
"""Slots are read before the keys they name, so a pipeline of five stages has two blocks of keys on their way; one of
three or four has one, which nothing is computed beside. 48 splits: with 8 key heads, one long request is what an H200
holds at once (3 blocks of threads on each of 132 multiprocessors)."""


def decode_config(head_dim: int, capability: int, quantized: bool = False) -> AttentionConfig:
    """How one new token a request is computed; arguments as those of `extend_config`.

    On sm_100 as many keys of D 256 as elsewhere spill where they become bfloat16 on their way.
    """
    config, spills = DECODE[head_dim], quantized and capability >= 100 and head_dim == 256
    return replace(config, block_keys=16) if spills else config


DECODE_BLOCKS = 2048
"""Programs of a launch of decode attention, about: enough for all multiprocessors, and few that find nothing to do. One
without work takes a multiprocessor's place for as long as a length takes to come."""

MERGED_VALUES = 8192
"""Values of partial results that are on their way together where splits are merged: 64 registers of 128 threads."""

EXTEND = {
    dim: AttentionConfig(
        block_rows=128,
        block_keys=64,
        split_keys=512,
        max_splits=8,
        few_tokens=32,
        warps=8,
        stages=5,
    )
    for dim in HEAD_DIMS
} | {
    256: AttentionConfig(
        block_rows=64, block_keys=32, split_keys=512, max_splits=8, few_tokens=32, warps=8, stages=2
    )
}

CASCADE = {
    dim: AttentionConfig(
        block_rows=128, block_keys=64, split_keys=128, max_splits=8, few_tokens=1, warps=8, stages=5
    )
    for dim in HEAD_DIMS
} | {
    256: AttentionConfig(
        block_rows=64, block_keys=32, split_keys=128, max_splits=8, few_tokens=1, warps=8, stages=2
    )
}


def extend_config(
    head_dim: int, capability: int, quantized: bool = False, wide: bool = False
) -> AttentionConfig:
    """How new tokens are computed on a device of a compute capability (80, 90, …).

    `quantized`: K/V are. `wide`: all is float32, of which half as much is at hand at a time.
    """
    return _fitting(EXTEND[head_dim], capability, quantized, wide)


def cascade_config(
    head_dim: int, capability: int, quantized: bool = False, wide: bool = False
) -> AttentionConfig:
    """How a shared prefix is read; arguments as those of `extend_config`."""
    config = _fitting(CASCADE[head_dim], capability, quantized, wide)
    # Half as many threads have twice the registers: with 8 warps this one spills there.
    return replace(config, warps=4) if head_dim == 64 and capability >= 100 else config


def _fitting(
    config: AttentionConfig, capability: int, quantized: bool, wide: bool
) -> AttentionConfig:
    """What the budget's gate found: without it these spill.

    Before sm_90 a product's operands lie in registers too, which 64 keys at a time are too many for; from sm_100 on its
    sums lie in a memory of their own, which has 128 rows, and with 64 of them the compiler halves the registers.
    On both, keys that become bfloat16 on their way lie in registers twice.
    """
    if capability < 90:
        config = replace(config, block_keys=min(32, config.block_keys))
    elif capability >= 100:
        config = replace(config, block_rows=max(128, config.block_rows))
    halved = wide or (quantized and (capability < 90 or capability >= 100))
    return replace(config, block_keys=config.block_keys // 2) if halved else config


@dataclass(frozen=True, slots=True)
class SampleConfig:
    """A row of logits is cut into chunks, one for a block of threads; what may be kept is then searched in blocks.

    `choose_warps`: of the program that chooses a row's token, after all others. `cut_blocks`: of threads, about, for
    all rows together, that look for what a cut may keep.
    """

    chunk: int
    search_block: int
    warps: int
    choose_warps: int
    cut_blocks: int


SAMPLE = SampleConfig(chunk=2048, search_block=1024, warps=8, choose_warps=8, cut_blocks=1024)


def sample_config(capability: int) -> SampleConfig:
    """How tokens are chosen on a device of a compute capability; on sm_100 eight warps that choose would spill."""
    return SAMPLE if capability < 100 else replace(SAMPLE, choose_warps=4)


SPLIT_BLOCKS = 7 * 132
"""Blocks of threads at once: seven on each multiprocessor of an H200, which has room for eight; they have 84 KB of
weights in 4 bits on their way; 40 KB keep its memory busy (4.3 TB/s · 1.2 µs over 132)."""

SPLIT_TILES = SPLIT_BLOCKS // 2
"""A product that is split has at most so many tiles."""


@dataclass(frozen=True, slots=True)
class GemmConfig:
    """A tile of `block_rows` tokens × `block_columns` outputs, over the inputs a group at a time.

    Where there are few tiles, each is split along the inputs: into at most `blocks` blocks of threads in all, of at
    least `split_groups` groups each.
    """

    block_rows: int
    block_columns: int
    warps: int
    stages: int
    blocks: int = SPLIT_BLOCKS
    split_groups: int = 4


QUANTIZED_LINEAR = {
    16: GemmConfig(block_rows=16, block_columns=64, warps=2, stages=4),
    32: GemmConfig(block_rows=32, block_columns=64, warps=4, stages=4),
    64: GemmConfig(block_rows=64, block_columns=64, warps=4, stages=3),
}
"""By tokens, at most: one tile holds all of them, so that weights are read once. With 16 a warp has 32 outputs: tokens
enter the product's registers once for all of them, which makes 3.1 instructions a weight of 4 where it has 16."""

MAX_QUANTIZED_ROWS = max(QUANTIZED_LINEAR)
"""Beyond this many tokens the weights are no longer what a product waits for."""


def quantized_linear_config(num_rows: int) -> GemmConfig:
    """How so many tokens meet weights of 8 or 4 bits."""
    return next(config for most, config in QUANTIZED_LINEAR.items() if num_rows <= most)


def num_splits(num_columns: int, num_groups: int, config: GemmConfig) -> int:
    """Into how many equal parts a product's inputs are cut. It follows from the weight alone, so that a row's sums are
    taken in one order in any batch."""
    num_tiles = -(-num_columns // config.block_columns)
    most = min(config.blocks // num_tiles, num_groups // config.split_groups)
    return next((parts for parts in range(most, 1, -1) if num_groups % parts == 0), 1)


WIDEN_COLUMNS = 32
"""Outputs whose weights, a group of inputs at a time, a block of threads makes numbers of."""

WIDE_BYTES = 32 << 20
"""Weights as numbers that wait for a product: so few that an H200's second-level cache still holds them then."""


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """A tile of `block_rows` pairs of one expert × `block_columns` outputs, over `block_inputs` inputs at a time."""

    block_rows: int
    block_columns: int
    block_inputs: int
    warps: int
    stages: int


EXPERTS = {
    16: ExpertsConfig(block_rows=16, block_columns=64, block_inputs=128, warps=4, stages=4),
    64: ExpertsConfig(block_rows=64, block_columns=128, block_inputs=64, warps=4, stages=4),
    128: ExpertsConfig(block_rows=128, block_columns=128, block_inputs=64, warps=8, stages=3),
}
"""By pairs of an expert, on average and at most; the last also beyond. Few pairs: weights are what is waited for."""


def experts_config(num_pairs: int, num_experts: int) -> ExpertsConfig:
    """How so many pairs meet the weights of their experts; their spread is the device's business."""
    fitting = (config for most, config in EXPERTS.items() if num_pairs <= most * num_experts)
    return next(fitting, EXPERTS[max(EXPERTS)])


SHRINK_INPUTS = 1024
"""Inputs of which one block of threads makes a token's low-rank values: there are few of them, so it takes many blocks
to read an adapter's A at the speed of memory."""


@dataclass(frozen=True, slots=True)
class LowRankConfig:
    """A tile of `block_rows` tokens of one adapter × `block_columns` outputs; of A `block_inputs` inputs at a time."""

    block_rows: int
    block_columns: int
    block_inputs: int
    warps: int
    stages: int


def low_rank_config(rank: int) -> LowRankConfig:
    """How adapters of a padded rank are applied: by it alone, so that a row's bits do not depend on how many others
    there are. With more columns of large ranks registers spill."""
    columns = 128 if rank <= 32 else 64
    return LowRankConfig(block_rows=16, block_columns=columns, block_inputs=128, warps=4, stages=4)


ROPE_HEADS = 8
"""Heads of one token that a block of threads rotates together."""

POINTWISE_BLOCK = 1024
"""Elements of a row that a block of threads takes where rows need no sum."""
