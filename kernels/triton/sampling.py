"""Choosing a token for each row of logits on the device, without a sort and without the host.

    scan         chunks of a row, each a program: edits and the grammar's mask are part of the load; highest score, its
                 token, and the sum of weights. For a row that is not cut, this is the one pass over memory.
    candidates   rows cut by top-k, top-p or min-p: how many tokens of a chunk may be kept at all; then, a second time,
                 which. A bound that costs nothing leaves few: those are written out in the order of their ids.
    choose       one program a row: finds the exact cut among the few, four bits of the weight at a time, and draws.

The draw is that of `kernels.sampling`: the inverse of the cumulative distribution in the order of ids, at the point
`random_uniform(seed, position)`. Sums are taken in a fixed order within a row: a row's token does not depend on the
batch. A weight is exp((score - highest score) / temperature), so the highest weighs 1.
"""

import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels.configs import SampleConfig, sample_config
from branchwork.kernels.device_rows import DeviceRows, SamplingWorkspace
from branchwork.kernels.sampling import NO_TOKEN
from branchwork.kernels.triton.capability import capability_of

_NO_TOKEN = tl.constexpr(NO_TOKEN)
_LEAST_MASS = tl.constexpr(1e-30)
"""With top-p 0 the most likely token is still kept: there is less than this before it."""


@triton.jit
def _clean(logits, row, stride, token, real):
    """Logits as float32; NaN is never chosen."""
    value = tl.load(logits + row * stride + token, mask=real, other=-float("inf")).to(tl.float32)
    return tl.where(value == value, value, -float("inf"))


@triton.jit
def _bit(words, row, width, token, real):
    """Whether a token's bit is set in a row of packed bits."""
    word = tl.load(words + row * tl.cdiv(width, 32) + token // 32, mask=real, other=0)
    return ((word >> (token % 32)) & 1) != 0


@triton.jit
def _scores(
    value, repetition_penalty, frequency_penalty, presence_penalty, mask, mask_row, edited, seen, bias, row, width,
    token, real,
):  # fmt: skip
    """Logits after penalties, then bias and bans, then the mask. Only tokens with an edit look their edits up."""
    if edited is not None:
        touched = real & _bit(edited, row, width, token, real)
        history = tl.load(seen + row * width + token, mask=touched, other=0)
        repetition = tl.load(repetition_penalty + row)
        scaled = tl.where(value > 0, value / repetition, value * repetition)
        value = tl.where((history & 1) != 0, scaled, value)
        count = (history >> 1).to(tl.float32)
        value -= tl.load(frequency_penalty + row) * count
        value -= tl.where(count > 0, tl.load(presence_penalty + row), 0.0)
        value += tl.load(bias + row * width + token, mask=touched, other=0.0)
    line = tl.load(mask_row + row).to(tl.int64)
    masked = line >= 0
    allowed = _bit(mask, tl.maximum(line, 0), width, token, real & masked) | (not masked)
    return tl.where(real & allowed, value, -float("inf"))


@triton.jit
def _weights(score, highest, temperature):
    """Weights relative to the highest score, which is finite; 0 where nothing may be chosen."""
    warmth = tl.where(temperature > 0, temperature, 1.0)
    return tl.where(score == -float("inf"), 0.0, tl.exp((score - highest) / warmth))


@triton.jit
def _finite(value):
    return tl.where(value == -float("inf"), 0.0, value)


@triton.jit
def scan_kernel(
    logits, stride, width, temperature, repetition_penalty, frequency_penalty, presence_penalty, mask, mask_row,
    edited, seen, bias, chunk_highest, chunk_sum, chunk_token, raw_highest, raw_sum,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """One program: one chunk of one row. With raw_highest, also of the logits as the model gave them."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = row * tl.num_programs(1) + chunk
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    real = token < width
    value = _clean(logits, row, stride, token, real)
    if raw_highest is not None:
        top = tl.max(value, 0)
        tl.store(raw_highest + at, top)
        tl.store(raw_sum + at, tl.sum(tl.exp(value - _finite(top)), 0))
    score = _scores(
        value, repetition_penalty, frequency_penalty, presence_penalty, mask, mask_row, edited, seen, bias, row,
        width, token, real,
    )  # fmt: skip
    top = tl.max(score, 0)
    tl.store(chunk_highest + at, top)
    tl.store(chunk_sum + at, tl.sum(_weights(score, _finite(top), tl.load(temperature + row)), 0))
    tl.store(chunk_token + at, chunk * CHUNK + tl.argmax(score, 0))


@triton.jit
def _cuts(row, width, temperature, top_k, top_p, min_p):
    """How a row is cut, each with a value that cuts nothing, and whether it is cut at all."""
    k = tl.load(top_k + row)
    k = tl.where((k > 0) & (k < width), k, width)
    p = tl.load(top_p + row)
    least = tl.minimum(tl.load(min_p + row), 1.0)
    cut = (tl.load(temperature + row) > 0) & ((k < width) | (p < 1) | (least > 0))
    return k, p, least, cut


@triton.jit
def _chunk_sums(chunk_highest, chunk_sum, row, num_chunks, warmth, CHUNKS: tl.constexpr):
    """The highest score of a row, of each chunk, and each chunk's sum of weights relative to the row's highest."""
    place = tl.arange(0, CHUNKS)
    real = place < num_chunks
    tops = tl.load(chunk_highest + row * num_chunks + place, mask=real, other=-float("inf"))
    highest = tl.max(tops, 0)
    sums = tl.load(chunk_sum + row * num_chunks + place, mask=real, other=0.0)
    return highest, tops, sums * _weights(tops, _finite(highest), warmth)


@triton.jit
def _candidates(
    logits, stride, width, temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty,
    presence_penalty, mask, mask_row, edited, seen, bias, chunk_highest, chunk_sum, row, chunk,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """The weights of a chunk's tokens, and which of them the cuts may keep: all they keep, and few others.

    top-k   the k-th highest of the chunks' highest scores: as many tokens are no lower
    top-p   tokens lighter than (1 - p) · sum / V weigh less than 1 - p all together
    With top-k, top-p is a share of what that kept: then all of those are candidates, however light.
    """
    k, p, least, _ = _cuts(row, width, temperature, top_k, top_p, min_p)
    warmth = tl.load(temperature + row)
    num_chunks = tl.cdiv(width, CHUNK)
    highest, tops, sums = _chunk_sums(chunk_highest, chunk_sum, row, num_chunks, warmth, CHUNKS)
    better = tl.sum((tops[None, :] > tops[:, None]).to(tl.int32), 1)
    lowest = tl.min(tl.where(better < k, tops, float("inf")), 0)
    lowest = tl.where(k <= num_chunks, lowest, -float("inf"))
    # Half of the bound: the sum is rounded.
    lightest = tl.maximum(0.5 * (1 - p) * tl.sum(sums, 0) / width, least)
    lightest = tl.where(k < width, 0.0, lightest)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    real = token < width
    score = _scores(
        _clean(logits, row, stride, token, real), repetition_penalty, frequency_penalty, presence_penalty, mask,
        mask_row, edited, seen, bias, row, width, token, real,
    )  # fmt: skip
    weight = _weights(score, _finite(highest), warmth)
    return token, weight, (weight > 0) & (score >= lowest) & (weight >= lightest)


@triton.jit
def candidates_kernel(
    logits, stride, width, temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty,
    presence_penalty, mask, mask_row, edited, seen, bias, chunk_highest, chunk_sum, chunk_count, list_weight,
    list_token, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """One program: the candidates of some chunks of a row, if the row is cut.

    Without a list it counts those of each chunk; with one it writes them, each chunk's behind those of chunks before.
    """
    row = tl.program_id(0).to(tl.int64)
    k, p, least, cut = _cuts(row, width, temperature, top_k, top_p, min_p)
    num_chunks = tl.cdiv(width, CHUNK)
    if cut:
        # What is the same for all chunks is worked out for each: kept, it takes twice as many registers.
        for chunk in tl.range(
            tl.program_id(1), num_chunks, tl.num_programs(1), num_stages=1, disable_licm=True
        ):
            token, weight, kept = _candidates(
                logits, stride, width, temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty,
                presence_penalty, mask, mask_row, edited, seen, bias, chunk_highest, chunk_sum, row, chunk, CHUNK,
                CHUNKS,
            )  # fmt: skip
            counts = chunk_count + row * num_chunks
            if list_weight is None:
                tl.store(counts + chunk, tl.sum(kept.to(tl.int32), 0))
            else:
                place = tl.arange(0, CHUNKS)
                before = tl.sum(tl.load(counts + place, mask=place < chunk, other=0), 0)
                target = row * width + before + tl.cumsum(kept.to(tl.int32), 0) - 1
                tl.store(list_weight + target, weight, mask=kept)
                tl.store(list_token + target, token, mask=kept)


@triton.jit
def _cut(weights, num, max_count, max_mass, BLOCK: tl.constexpr):
    """Where a list ends: at most `max_count` of its heaviest are kept, those with less than `max_mass` before them.

    Returns the lightest weight that is kept (as bits, which order as the weights do), how many of that very weight are
    kept, the first of the list, and the mass of all that is kept.
    """
    digit = tl.arange(0, 16)
    prefix, count, mass, equals = 0, 0, 0.0, 0
    for step in tl.range(0, 8):
        shift = 28 - 4 * step
        counts, masses = tl.zeros([16], tl.int32), tl.zeros([16], tl.float32)
        for start in tl.range(0, num, BLOCK):
            place = start + tl.arange(0, BLOCK)
            weight = tl.load(weights + place, mask=place < num, other=0.0)
            bits = weight.to(tl.int32, bitcast=True)
            here = (weight > 0) & ((bits >> shift >> 4) == prefix)
            hit = here[:, None] & (((bits >> shift) & 15)[:, None] == digit[None, :])
            counts += tl.sum(hit.to(tl.int32), 0)
            masses += tl.sum(tl.where(hit, weight[:, None], 0.0), 0)
        at_least = digit[None, :] >= digit[:, None]
        count_down = tl.sum(tl.where(at_least, counts[None, :], 0), 1)
        mass_down = tl.sum(tl.where(at_least, masses[None, :], 0.0), 1)
        fits = (count + count_down < max_count) & (mass + mass_down < max_mass)
        chosen = tl.max(tl.where(fits, 0, digit), 0)
        count += tl.sum(tl.where(digit > chosen, counts, 0), 0)
        mass += tl.sum(tl.where(digit > chosen, masses, 0.0), 0)
        equals = tl.sum(tl.where(digit == chosen, counts, 0), 0)
        prefix = prefix * 16 + chosen
    lightest = prefix.to(tl.float32, bitcast=True)
    fitting = tl.ceil((max_mass - mass) / tl.maximum(lightest, _LEAST_MASS))
    fitting = tl.minimum(tl.minimum(fitting, equals.to(tl.float32)).to(tl.int32), max_count - count)
    return prefix, fitting, mass + fitting.to(tl.float32) * lightest


@triton.jit
def _kept_block(weights, start, num, equals, threshold, num_equal, least, BLOCK: tl.constexpr):
    """A block of the list with what the cuts drop set to 0, and how many of the threshold's weight came so far."""
    place = start + tl.arange(0, BLOCK)
    weight = tl.load(weights + place, mask=place < num, other=0.0)
    bits = weight.to(tl.int32, bitcast=True)
    equal = bits == threshold
    rank = equals + tl.cumsum(equal.to(tl.int32), 0) - 1
    kept = ((bits > threshold) | (equal & (rank < num_equal))) & (weight >= least)
    return tl.where(kept, weight, 0.0), equals + tl.sum(equal.to(tl.int32), 0)


@triton.jit
def _first_past(weights, passed, point, place, BLOCK: tl.constexpr):
    """The first place at which the running sum passes `point`, else the last one that weighs anything, else -1."""
    running = passed + tl.cumsum(weights, 0)
    hit = (weights > 0) & (running > point)
    first = tl.min(tl.where(hit, place, 2147483647), 0)
    last = tl.max(tl.where(weights > 0, place, -1), 0)
    return tl.where(first < 2147483647, first, last), first < 2147483647


@triton.jit
def _draw_from_list(weights, tokens, num, k, p, least, whole, width, uniform, BLOCK: tl.constexpr):
    """Draw from a row's candidates, cut exactly: top-k, then top-p among those, then min-p.

    `whole` is the mass of all tokens: without top-k, too light ones are no candidates, but part of what top-p shares.
    """
    threshold, num_equal, total = _cut(weights, num, k, float("inf"), BLOCK)
    total = tl.where(k < width, total, whole)
    if p < 1:
        threshold, num_equal, total = _cut(
            weights, num, num + 1, tl.maximum(p * total, _LEAST_MASS), BLOCK
        )
    equals, total = 0, 0.0
    for start in tl.range(0, num, BLOCK):
        kept, equals = _kept_block(weights, start, num, equals, threshold, num_equal, least, BLOCK)
        total += tl.sum(kept, 0)
    point = (uniform * total).to(tl.float32)
    equals, passed, chosen, found = 0, 0.0, -1, False
    for start in tl.range(0, num, BLOCK):
        kept, equals = _kept_block(weights, start, num, equals, threshold, num_equal, least, BLOCK)
        place, hit = _first_past(kept, passed, point, start + tl.arange(0, BLOCK), BLOCK)
        chosen = tl.where(found | (place < 0), chosen, place)
        found = found | hit
        passed += tl.sum(kept, 0)
    return tl.load(tokens + chosen)


@triton.jit
def _mix(word):
    """As `kernels.sampling._mix`, on unsigned 64 bits."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB
    return word ^ (word >> 31)


@triton.jit
def _random_uniform(seed, position):
    """As `kernels.sampling.random_uniform`."""
    place = (position + 1).to(tl.uint64, bitcast=True) * 0x9E3779B97F4A7C15
    word = _mix(_mix(seed.to(tl.uint64, bitcast=True)) + place)
    return (word >> 11).to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def choose_kernel(
    logits, stride, width, temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty,
    presence_penalty, seed, position, mask, mask_row, edited, seen, bias, chunk_highest, chunk_sum, chunk_token,
    raw_highest, raw_sum, chunk_count, list_weight, list_token, out, logprobs, num_chunks,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one row. Greedy from the chunks alone; a draw that is not cut reads one chunk again."""
    row = tl.program_id(0).to(tl.int64)
    k, p, least, cut = _cuts(row, width, temperature, top_k, top_p, min_p)
    warmth = tl.load(temperature + row)
    highest, tops, sums = _chunk_sums(chunk_highest, chunk_sum, row, num_chunks, warmth, CHUNKS)
    place = tl.arange(0, CHUNKS)
    uniform = _random_uniform(tl.load(seed + row), tl.load(position + row))
    token = 0
    if highest == -float("inf"):
        token = _NO_TOKEN
    elif warmth == 0:
        best = tl.min(tl.where(tops == highest, place, CHUNKS), 0)
        token = tl.load(chunk_token + row * num_chunks + best)
    elif cut:
        num = tl.sum(
            tl.load(chunk_count + row * num_chunks + place, mask=place < num_chunks, other=0), 0
        )
        token = _draw_from_list(
            list_weight + row * width, list_token + row * width, num, k, p, least, tl.sum(sums, 0), width, uniform,
            BLOCK,
        )  # fmt: skip
    else:
        point = (uniform * tl.sum(sums, 0)).to(tl.float32)
        chunk, _ = _first_past(sums, 0.0, point, place, CHUNKS)
        passed = tl.sum(tl.where(place < chunk, sums, 0.0), 0)
        ids = chunk * CHUNK + tl.arange(0, CHUNK)
        real = ids < width
        score = _scores(
            _clean(logits, row, stride, ids, real), repetition_penalty, frequency_penalty, presence_penalty, mask,
            mask_row, edited, seen, bias, row, width, ids, real,
        )  # fmt: skip
        token, _ = _first_past(_weights(score, highest, warmth), passed, point, ids, CHUNK)
    tl.store(out + row, token)
    if logprobs is not None:
        _, raw_tops, raw_sums = _chunk_sums(raw_highest, raw_sum, row, num_chunks, 1.0, CHUNKS)
        raw_top = tl.max(raw_tops, 0)
        chosen = tl.load(logits + row * stride + tl.maximum(token, 0)).to(tl.float32)
        logprob = chosen - raw_top - tl.log(tl.sum(raw_sums, 0))
        tl.store(logprobs + row, tl.where(token >= 0, logprob, -float("inf")))


def sample(
    logits: Tensor,
    rows: DeviceRows,
    out: Tensor,
    logprobs: Tensor | None,
    workspace: SamplingWorkspace,
    config: SampleConfig | None = None,
) -> None:
    """See `api.sample`. config: the device's own, unless given."""
    config = config or sample_config(capability_of(logits.device))
    num_rows, width = logits.shape
    num_chunks = triton.cdiv(width, config.chunk)
    chunks = triton.next_power_of_2(num_chunks)
    head = (logits, logits.stride(0), width, rows.temperature)
    cuts = (rows.top_k, rows.top_p, rows.min_p)
    penalties = (rows.repetition_penalty, rows.frequency_penalty, rows.presence_penalty)
    edits = (rows.mask, rows.mask_row, rows.edited, rows.seen, rows.bias)
    found = (workspace.chunk_highest, workspace.chunk_sum)
    raw = (None, None) if logprobs is None else (workspace.raw_highest, workspace.raw_sum)
    listed = (workspace.list_weight, workspace.list_token)
    sizes = {"CHUNK": config.chunk, "CHUNKS": chunks}
    # A row that is not cut has nothing to do in the second and the third launch: few programs find that out.
    grid = num_rows, min(num_chunks, triton.cdiv(config.cut_blocks, num_rows))
    scan_kernel[(num_rows, num_chunks)](
        *head, *penalties, *edits, *found, workspace.chunk_token, *raw,
        CHUNK=config.chunk, num_warps=config.warps,
    )  # fmt: skip
    for candidates in ((None, None), listed):
        candidates_kernel[grid](
            *head, *cuts, *penalties, *edits, *found, workspace.chunk_count, *candidates, **sizes,
            num_warps=config.warps,
        )  # fmt: skip
    choose_kernel[(num_rows,)](
        *head, *cuts, *penalties, rows.seed, rows.position, *edits, *found, workspace.chunk_token, *raw,
        workspace.chunk_count, *listed, out, logprobs, num_chunks, **sizes, BLOCK=config.search_block,
        num_warps=config.choose_warps,
    )  # fmt: skip
