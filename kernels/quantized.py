"""Numbers stored in fewer bits: what a scale is, and linear layers whose weights are int8 or int4.

K and V may be stored as float8 (e4m3) or int8, with a float32 scale for each slot and head: stored · scale is the
value. Weights are int8 with a scale for each output, or int4 with a scale for each output and group of inputs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from branchwork.kernels.errors import KernelError

Quantize = Literal["none", "int8", "int4"]
"""What the weights of linear layers are rounded to when a model is loaded."""

Bits = Literal[4, 8]
BITS_OF_LAYERS: dict[Quantize, Bits | None] = {"none": None, "int8": 8, "int4": 4}
BITS_OF_HEAD: dict[Quantize, Bits | None] = {"none": None, "int8": 8, "int4": 8}
"""The head has one chance to be right, and is a small part of what a large model reads."""

INT4_GROUP = 128
"""Inputs that share a scale where a model is rounded to int4."""


def quantized_bytes(num_layer_weights: int, num_head_weights: int, quantize: Quantize) -> int:
    """What so many rounded weights take; scales of whole outputs not counted, which are nothing beside them."""
    bits, head_bits = BITS_OF_LAYERS[quantize] or 16, BITS_OF_HEAD[quantize] or 16
    scales = num_layer_weights * 4 // INT4_GROUP if bits == 4 else 0
    return (num_layer_weights * bits + num_head_weights * head_bits) // 8 + scales


_LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}


def largest_stored(dtype: torch.dtype) -> float:
    """The largest value a quantised dtype is scaled to; 0 for a dtype that stores values as they are."""
    return _LARGEST.get(dtype, 0.0)


def quantize_heads(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[…, D] as `dtype`, and the scale of each head […]: its largest magnitude becomes the largest that is stored."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    top = wide.abs().amax(-1)
    scale = torch.where(top > 0, top / _LARGEST[dtype], 1.0)
    scaled = wide / scale.unsqueeze(-1)
    if dtype is torch.int8:
        scaled = torch.floor(scaled + 0.5)
    return scaled.to(dtype), scale


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """y = x Wᵀ + b with W in 8 or 4 bits.

    weight  8 bits: int8 [out, in];  4 bits: uint8 [out, in / 2], of each group of inputs the first half in the low
            nibbles and the second half in the high ones, each 8 more than its value. `in` is a whole number of groups
            here: behind `in_features` the levels are 0
    scale   8 bits: float32 [out, 1];  4 bits: float32 [out, in / group]
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    bits: Bits
    group: int
    in_features: int
    out_features: int

    @property
    def num_bytes(self) -> int:
        """What is read of it for a row."""
        return self.weight.nbytes + self.scale.nbytes


@dataclass(frozen=True, slots=True)
class LinearRoom:
    """What products of `QuantizedLinear` work in, one at a time; made once, and nothing in it outlives a product.

    wide     [n]  of x's dtype: weights as numbers, some outputs at a time; or the sums of splits, in float32
    arrived  [t]  int32: how many splits of a tile are done; 0 between two products
    """

    wide: Tensor
    arrived: Tensor


_OUTPUTS_AT_ONCE = 4096
"""Rounding takes twelve bytes a weight meanwhile, which a large head has no room for."""


def quantize_linear(
    weight: Tensor, bits: Bits, group: int = 128, bias: Tensor | None = None
) -> QuantizedLinear:
    """Round `weight` [out, in] to the nearest of 2 · 127 + 1 or 2 · 7 + 1 levels, alike on both sides of zero.

    `group` (64 or 128) inputs share a scale in 4 bits; in 8 bits it is only the step in which a kernel reads.
    """
    out_features, in_features = weight.shape
    if group not in (64, 128):
        raise KernelError("group", "64 or 128", str(group))
    firsts = range(0, out_features, _OUTPUTS_AT_ONCE)
    parts = [_rounded(weight[at : at + _OUTPUTS_AT_ONCE], bits, group) for at in firsts]
    stored, scale = (torch.cat(part) for part in zip(*parts, strict=True))
    return QuantizedLinear(stored, scale, bias, bits, group, in_features, out_features)


def _rounded(weight: Tensor, bits: Bits, group: int) -> tuple[Tensor, Tensor]:
    """Levels and scales of some outputs, as they are stored."""
    wide = pad(weight.float(), (0, -weight.shape[1] % group))
    if bits == 8:
        scale = (wide.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
        return (wide / scale).round().to(torch.int8), scale
    groups = wide.view(len(wide), -1, group)
    scale = (groups.abs().amax(2) / 7).clamp_min(1e-12)
    levels = (groups / scale.unsqueeze(2)).round().to(torch.int16) + 8
    low, high = levels.chunk(2, dim=2)
    return (low | (high << 4)).to(torch.uint8).view(len(wide), -1), scale


def stored_levels(linear: QuantizedLinear) -> Tensor:
    """What the scales multiply: whole numbers from -127 to 127, int8 [out, in], a whole number of groups."""
    if linear.bits == 8:
        return linear.weight
    bytes_ = linear.weight.view(linear.out_features, -1, linear.group // 2)
    levels = torch.cat((bytes_ & 15, bytes_ >> 4), dim=2).to(torch.int8) - 8
    return levels.view(linear.out_features, -1)


def dequantize(linear: QuantizedLinear) -> Tensor:
    """The weights as float32 [out, in_features]."""
    groups = stored_levels(linear).float().view(linear.out_features, linear.scale.shape[1], -1)
    wide = (groups * linear.scale.unsqueeze(2)).view(linear.out_features, -1)
    return wide[:, : linear.in_features]
