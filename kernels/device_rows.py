"""`SamplingRows` as a device reads them, and the room that sampling works in."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from branchwork.kernels.configs import SAMPLE, SampleConfig
from branchwork.kernels.sampling import SamplingRows


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """One line for each row of logits; V is how many ids may be chosen.

    temperature, top_p, min_p                 float32 [R]
    top_k                                     int32 [R]; 0: no bound
    repetition, frequency, presence_penalty   float32 [R]
    seed, position                            int64 [R]
    mask, mask_row                            int32 [masks, ceil(V / 32)]; int32 [R]: a row's line there, below 0: none
    edited, seen, bias                        int32 [R, ceil(V / 32)], int32 [R, V], float32 [R, V], or None all three:
                                              tokens whose score is changed, as bits; for those, 2 · (times generated)
                                              + (1 if among all tokens so far), and what is added (−inf bans)
    """

    temperature: Tensor
    top_p: Tensor
    min_p: Tensor
    top_k: Tensor
    repetition_penalty: Tensor
    frequency_penalty: Tensor
    presence_penalty: Tensor
    seed: Tensor
    position: Tensor
    mask: Tensor
    mask_row: Tensor
    edited: Tensor | None
    seen: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class SamplingWorkspace:
    """What the passes of one call hand on to each other."""

    chunk_highest: Tensor
    chunk_sum: Tensor
    chunk_token: Tensor
    chunk_count: Tensor
    raw_highest: Tensor
    raw_sum: Tensor
    list_weight: Tensor
    list_token: Tensor


def make_sampling_workspace(
    max_rows: int, vocab_size: int, device: torch.device | str, config: SampleConfig = SAMPLE
) -> SamplingWorkspace:
    """Room for up to `max_rows` rows of logits."""
    chunks = max_rows * -(-vocab_size // config.chunk)

    def floats(size: int) -> Tensor:
        return torch.empty(size, dtype=torch.float32, device=device)

    def ints(size: int) -> Tensor:
        return torch.empty(size, dtype=torch.int32, device=device)

    return SamplingWorkspace(
        floats(chunks), floats(chunks), ints(chunks), ints(chunks), floats(chunks), floats(chunks),
        floats(max_rows * vocab_size), ints(max_rows * vocab_size),
    )  # fmt: skip


def device_rows(
    rows: SamplingRows, num_ids: int, copy: Callable[[np.ndarray], Tensor] = torch.from_numpy
) -> DeviceRows:
    """Rows as `copy` puts them on a device. Edits are laid out by token, and left out where no row has any."""
    words = -(-num_ids // 32)
    edits = _edits(rows, num_ids)
    edited, seen, bias = (None, None, None) if edits is None else edits
    mask = np.ascontiguousarray(rows.mask[:, :words])
    lines = np.where(rows.has_mask, np.arange(rows.num_rows), -1).astype(np.int32)

    def there(array: np.ndarray | None) -> Tensor | None:
        return None if array is None else copy(array)

    return DeviceRows(
        temperature=copy(rows.temperature), top_p=copy(rows.top_p), min_p=copy(rows.min_p),
        top_k=copy(rows.top_k), repetition_penalty=copy(rows.repetition_penalty),
        frequency_penalty=copy(rows.frequency_penalty), presence_penalty=copy(rows.presence_penalty),
        seed=copy(rows.seed), position=copy(rows.position), mask=copy(mask), mask_row=copy(lines),
        edited=there(edited), seen=there(seen), bias=there(bias),
    )  # fmt: skip


def _edits(rows: SamplingRows, num_ids: int) -> tuple[np.ndarray, ...] | None:
    """`edited`, `seen` and `bias` of DeviceRows."""
    if not len(rows.edit_ids) and not rows.has_penalties.any():
        return None
    seen = np.zeros((rows.num_rows, num_ids), np.int32)
    bias = np.zeros((rows.num_rows, num_ids), np.float32)
    touched = np.zeros((rows.num_rows, -(-num_ids // 32) * 32), np.uint8)
    for row in range(rows.num_rows):
        ids, values = rows.edits_of(row)
        np.add.at(bias[row], ids, values)
        touched[row, ids] = 1
        if rows.has_penalties[row]:
            generated, context = rows.generated_of(row), rows.context_of(row)
            np.add.at(seen[row], generated, 2)
            seen[row, context] |= 1
            touched[row, generated] = touched[row, context] = 1
    edited = np.packbits(touched, axis=1, bitorder="little").view(np.int32)
    return edited, seen, bias
