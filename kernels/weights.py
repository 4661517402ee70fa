"""A decoder's weights as plain tensors, by the names of what they do: what a model folder gives to the kernels."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """The experts of a layer, of which each token goes to `choices`; `normalised`: their weights sum to 1.

    router   [E, hidden]
    gate_up  [E, 2 · width, hidden]
    down     [E, hidden, width]
    """

    router: Tensor
    gate_up: Tensor
    down: Tensor
    choices: int
    normalised: bool


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; each weight is [out, in].

    q, k and v are applied together, and so are gate and up. They are given in parts, which may be views of a
    file, or joined already (one part): only who lays them out for its device joins them.
    `window` is how many positions the layer looks back over, its own included; 0: all. With `experts` there is no
    gate_up, and nothing is in `down`.
    """

    attention_norm: Tensor
    qkv: tuple[Tensor, ...]
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: tuple[Tensor, ...]
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    window: int
    experts: ExpertWeights | None = None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A whole decoder of the Llama family. `head` may be the very tensor of `embedding`."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor
    head: Tensor
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float


@dataclass(frozen=True, slots=True)
class LowRank:
    """What N adapters add to matrices that are applied together: B (A x) for a token that has one (Hu et al. 2021).

    Each of the matrices has `rank` rows of A, one after another, and its own outputs in B. An adapter of a smaller
    rank, or one that leaves a matrix alone, has zeros there.

    shrink  [N, parts · rank, in]  A
    expand  [N, out, rank]         B, scaled
    widths  outputs of each part; they sum to out
    """

    shrink: Tensor
    expand: Tensor
    widths: tuple[int, ...]

    def on_device(self, device: torch.device) -> "LowRank":
        """The same there."""
        return LowRank(self.shrink.to(device), self.expand.to(device), self.widths)


@dataclass(frozen=True, slots=True)
class LayerAdapters:
    """Of one layer; None: no adapter touches these matrices."""

    qkv: LowRank | None = None
    out: LowRank | None = None
    gate_up: LowRank | None = None
    down: LowRank | None = None

    @property
    def every(self) -> tuple[LowRank | None, ...]:
        """In the order in which they are applied."""
        return self.qkv, self.out, self.gate_up, self.down

    def on_device(self, device: torch.device) -> "LayerAdapters":
        """The same there."""
        return LayerAdapters(*(one and one.on_device(device) for one in self.every))


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """`number` adapters of one padded rank, layer by layer."""

    number: int
    rank: int
    layers: tuple[LayerAdapters, ...]

    def on_device(self, device: torch.device) -> "AdapterWeights":
        """The same there."""
        layers = tuple(layer.on_device(device) for layer in self.layers)
        return AdapterWeights(self.number, self.rank, layers)
