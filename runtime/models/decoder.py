"""A decoder of the Llama family (Touvron et al. 2023), in plain terms: the layers of the paper over `kernels.api`.

Llama, Mistral, Qwen2 and Qwen3 differ only in what `ModelConfig` names: biases, norms on q and k, windows, rotation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.batch import Batch, KvCache
from branchwork.runtime.models import rope
from branchwork.runtime.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer; q, k and v are one matrix, and so are gate and up."""

    attention_norm: Tensor
    qkv: kernels.PackedLinear
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: kernels.PackedLinear
    mlp_norm: Tensor
    gate_up: kernels.PackedLinear
    down: kernels.PackedLinear


class Decoder:
    """The network. Holds weights, and tables of the rotation that grow with the positions seen."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: Tensor,
        layers: tuple[Layer, ...],
        final_norm: Tensor,
        head: kernels.PackedLinear,
    ) -> None:
        self.config = config
        self.embedding = embedding
        self.layers = layers
        self.final_norm = final_norm
        self.head = head
        self._cos, self._sin = rope.tables(config.rope, 1024)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and cache."""
        return self.embedding.dtype

    def forward(self, batch: Batch, cache: KvCache) -> Tensor:
        """Compute the new tokens, writing their K and V to their slots.

        Returns the last layer's output before the final norm, [T, hidden_size].
        """
        config = self.config
        cos, sin = self._rotation(batch.max_position)
        num_tokens = batch.token_ids.shape[0]
        hidden = self.embedding.new_empty(num_tokens, config.hidden_size)
        normed = torch.empty_like(hidden)
        q = hidden.new_empty(num_tokens, config.num_heads, config.head_dim)
        attended = torch.empty_like(q)
        activated = hidden.new_empty(num_tokens, config.intermediate_size)
        scale = config.head_dim**-0.5

        kernels.embed(batch.token_ids, self.embedding, out=hidden)
        delta: Tensor | None = None
        for layer, k_pool, v_pool, window in zip(
            self.layers, cache.k, cache.v, config.windows, strict=True
        ):
            self._add_norm(delta, hidden, layer.attention_norm, normed)
            qkv = kernels.linear(normed, layer.qkv)
            kernels.rope_store_kv(
                qkv, cos, sin, batch.positions, batch.slots, k_pool, v_pool, q,
                layer.q_norm, layer.k_norm, config.rms_norm_eps,
            )  # fmt: skip
            kernels.attend(
                q, k_pool, v_pool, cache.slot_table, batch.rows, batch.query_start, batch.kv_len,
                attended, scale, window,
            )  # fmt: skip
            delta = kernels.linear(attended.view(num_tokens, -1), layer.out)
            self._add_norm(delta, hidden, layer.mlp_norm, normed)
            kernels.silu_mul(kernels.linear(normed, layer.gate_up), out=activated)
            delta = kernels.linear(activated, layer.down)
        return hidden if delta is None else hidden.add_(delta)

    def normed(self, hidden: Tensor) -> Tensor:
        """Rows of `forward` through the final norm: what the head and poolers read."""
        out = torch.empty_like(hidden)
        kernels.rms_norm(hidden, self.final_norm, self.config.rms_norm_eps, out)
        return out

    def logits(self, normed: Tensor) -> Tensor:
        """Scores of the next token, [rows, vocab_size], of rows of `normed`."""
        return kernels.linear(normed, self.head)

    def _add_norm(self, delta: Tensor | None, hidden: Tensor, weight: Tensor, out: Tensor) -> None:
        if delta is None:
            kernels.rms_norm(hidden, weight, self.config.rms_norm_eps, out)
        else:
            kernels.add_rms_norm(delta, hidden, weight, self.config.rms_norm_eps, out)

    def _rotation(self, max_position: int) -> tuple[Tensor, Tensor]:
        if max_position >= len(self._cos):
            length = max(max_position + 1, 2 * len(self._cos))
            self._cos, self._sin = rope.tables(self.config.rope, length)
        return self._cos, self._sin
