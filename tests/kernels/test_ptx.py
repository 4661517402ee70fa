"""The text of PTX inside of kernels."""

import numpy as np
import torch
from tests.kernels.ptx import run

from branchwork.kernels.triton import linear


def test_every_byte_of_int4_gives_its_two_levels() -> None:
    stored = np.arange(256, dtype=np.uint8)
    outputs = run(linear._NIBBLES.value, 4, [stored.view(np.uint32)])
    low, high = (np.stack(pair, 1).reshape(-1) for pair in (outputs[:2], outputs[2:]))

    def numbers(words: np.ndarray) -> list[float]:
        return torch.from_numpy(words.view(np.int16).copy()).view(torch.bfloat16).tolist()

    assert numbers(low) == [(byte & 15) - 8 for byte in range(256)]
    assert numbers(high) == [(byte >> 4) - 8 for byte in range(256)]
