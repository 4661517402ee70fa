"""The few instructions of PTX that kernels contain as text, so that the interpreter runs the text that a GPU gets.

As "PTX ISA" has them: `prmt` picks bytes, of the first operand 0 to 3 and of the second 4 to 7; `fma.rn.bf16x2` rounds
once, and is exact here in float64.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Words = npt.NDArray[np.uint32]


def _prmt(a: Words, b: Words, selector: Words) -> Words:
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    out = np.zeros(np.broadcast_shapes(a.shape, b.shape), np.uint32)
    for i in range(4):
        which = int(selector) >> 4 * i & 15
        assert which < 8, "the sign's copies are not written here"
        byte = both >> np.uint64(8 * which) & np.uint64(255)
        out |= byte.astype(np.uint32) << np.uint32(8 * i)
    return out


def _fma_bf16x2(a: Words, b: Words, c: Words) -> Words:
    low, high = (_fma(*(word >> np.uint32(shift) for word in (a, b, c))) for shift in (0, 16))
    return low | high << np.uint32(16)


def _fma(*bits: Words) -> Words:
    a, b, c = ((word << np.uint32(16)).view(np.float32).astype(np.float64) for word in bits)
    rounded = torch.from_numpy(np.atleast_1d(a * b + c)).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().view(np.uint16).astype(np.uint32)


INSTRUCTIONS: dict[str, Callable[..., Words]] = {
    "and.b32": lambda a, b: a & b,
    "shr.b32": lambda a, b: a >> b,
    "mov.b32": lambda a: a,
    "prmt.b32": _prmt,
    "fma.rn.bf16x2": _fma_bf16x2,
}


def run(text: str, num_outputs: int, inputs: Sequence[Words]) -> list[Words]:
    """What the outputs $0, $1, … hold afterwards; the inputs follow them."""
    held: dict[str, Any] = {f"${num_outputs + i}": words for i, words in enumerate(inputs)}

    def value(operand: str) -> Words:
        found = held.get(operand)
        return np.array(int(operand, 0), np.uint32) if found is None else found

    for line in re.sub(r"[{}]", "", text).split(";"):
        name, _, rest = line.strip().partition(" ")
        if name and name != ".reg":
            target, *operands = (operand.strip() for operand in rest.split(","))
            held[target] = INSTRUCTIONS[name](*map(value, operands))
    return [held[f"${i}"] for i in range(num_outputs)]
