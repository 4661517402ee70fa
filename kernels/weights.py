"""A decoder's weights as plain tensors, by the names of what they do: what a model folder gives to the kernels."""

from dataclasses import dataclass

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
