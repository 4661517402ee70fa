"""Linear layers whose weights are laid out once, when a model is loaded."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Layout = Literal["plain", "onednn"]


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """y = x Wᵀ + b with W in the layout that its device multiplies fastest."""

    weight: Tensor
    bias: Tensor | None
    in_features: int
    out_features: int
    layout: Layout

    @property
    def num_bytes(self) -> int:
        """What is read of it for a row."""
        return self.in_features * self.out_features * self.weight.dtype.itemsize


def pack(weight: Tensor, bias: Tensor | None = None) -> PackedLinear:
    """Lay `weight` [out, in] out for `apply`; the plain tensor is not kept.

    On the CPU oneDNN reorders it. Measured on 2 cores of a Zen 4 against F.linear in bf16: 2 times as fast at
    batch 1 to 8, 1.3 at 32, the same from 256 on. And a row's result then does not depend on the batch
    (except, for very long rows, between batch 1 and more), which F.linear in float32 does not give.
    """
    out_features, in_features = weight.shape
    on_cpu = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    if on_cpu and torch._C._has_mkldnn:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _BATCH_HINT)
        return PackedLinear(packed, bias, in_features, out_features, "onednn")
    return PackedLinear(weight.contiguous(), bias, in_features, out_features, "plain")


# oneDNN asks for the batch it should expect; 1, 32 and 256 gave the same layout and speed.
_BATCH_HINT = 32


def apply(x: Tensor, linear: PackedLinear) -> Tensor:
    """See `api.linear`."""
    if linear.layout == "onednn":
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, linear.weight, linear.bias, "none", [], ""
        )
        return out
    return F.linear(x, linear.weight, linear.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out = x Wᵀ + b, where `out` may be some columns of a wider tensor."""
    if bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)
