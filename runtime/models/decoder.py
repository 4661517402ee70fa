"""A decoder of the Llama family (Touvron et al. 2023), in plain terms: the layers of the paper over `kernels.api`.

Llama, Mistral, Qwen2 and Qwen3 differ only in what `ModelConfig` names: biases, norms on q and k, windows, rotation.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.models.batch import BatchTensors, KvCache
from branchwork.runtime.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class _Linears:
    """The packed matrices of one layer."""

    qkv: kernels.PackedLinear
    out: kernels.PackedLinear
    gate_up: kernels.PackedLinear
    down: kernels.PackedLinear


class Decoder:
    """The network: weights, and how they are applied."""

    def __init__(self, config: ModelConfig, weights: kernels.DecoderWeights) -> None:
        self.config = config
        self.weights = weights

    @cached_property
    def _linears(self) -> tuple[_Linears, ...]:
        """Laid out on first use: a compiled network may make it unnecessary."""
        return tuple(
            _Linears(
                kernels.pack_linear(_joined(layer.qkv), layer.qkv_bias),
                kernels.pack_linear(layer.out, layer.out_bias),
                kernels.pack_linear(_joined(layer.gate_up), layer.gate_up_bias),
                kernels.pack_linear(layer.down, layer.down_bias),
            )
            for layer in self.weights.layers
        )

    @cached_property
    def _head(self) -> kernels.PackedLinear:
        return kernels.pack_linear(self.weights.head)

    def without_layers(self) -> "Decoder":
        """What is left of it where another form has taken over the layers and the head: `normed`."""
        weights = replace(self.weights, layers=(), head=self.weights.embedding)
        return Decoder(self.config, weights)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and cache."""
        return self.weights.embedding.dtype

    def forward(self, batch: BatchTensors, cache: KvCache) -> Tensor:
        """Compute the new tokens, writing their K and V to their slots.

        Returns the last layer's output before the final norm, [T, hidden_size].
        """
        config = self.config
        num_tokens = len(batch.token_ids)
        hidden = self.weights.embedding.new_empty(num_tokens, config.hidden_size)
        normed = torch.empty_like(hidden)
        q = hidden.new_empty(num_tokens, config.num_heads, config.head_dim)
        attended = torch.empty_like(q)
        activated = hidden.new_empty(num_tokens, config.intermediate_size)
        scale = config.head_dim**-0.5

        kernels.embed(batch.token_ids, self.weights.embedding, out=hidden)
        delta: Tensor | None = None
        for layer, linears, k_pool, v_pool in zip(
            self.weights.layers, self._linears, cache.k, cache.v, strict=True
        ):
            self._add_norm(delta, hidden, layer.attention_norm, normed)
            qkv = kernels.linear(normed, linears.qkv)
            kernels.rope_store_kv(
                qkv, cache.rotation.cos, cache.rotation.sin, batch.positions, batch.slots, k_pool, v_pool, q,
                layer.q_norm, layer.k_norm, config.rms_norm_eps,
            )  # fmt: skip
            kernels.attend(
                q, k_pool, v_pool, cache.slot_table, batch.rows, batch.query_start, batch.kv_len, attended, scale,
                layer.window, workspace=batch.workspace, max_new_tokens=batch.max_new_tokens, shared=batch.shared,
            )  # fmt: skip
            delta = kernels.linear(attended.view(num_tokens, -1), linears.out)
            self._add_norm(delta, hidden, layer.mlp_norm, normed)
            kernels.silu_mul(kernels.linear(normed, linears.gate_up), out=activated)
            delta = kernels.linear(activated, linears.down)
        return hidden if delta is None else hidden.add_(delta)

    def normed(self, hidden: Tensor) -> Tensor:
        """Rows of `forward` through the final norm: what the head and poolers read."""
        out = torch.empty_like(hidden)
        kernels.rms_norm(hidden, self.weights.final_norm, self.config.rms_norm_eps, out)
        return out

    def logits(self, normed: Tensor) -> Tensor:
        """Scores of the next token, [rows, vocab_size], of rows of `normed`."""
        return kernels.linear(normed, self._head)

    def _add_norm(self, delta: Tensor | None, hidden: Tensor, weight: Tensor, out: Tensor) -> None:
        if delta is None:
            kernels.rms_norm(hidden, weight, self.config.rms_norm_eps, out)
        else:
            kernels.add_rms_norm(delta, hidden, weight, self.config.rms_norm_eps, out)


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def placed(weights: kernels.DecoderWeights, device: torch.device) -> kernels.DecoderWeights:
    """The weights on a device, with those joined that are applied together: one copy, layer by layer."""

    def there(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    def layer_there(layer: kernels.LayerWeights) -> kernels.LayerWeights:
        return kernels.LayerWeights(
            attention_norm=layer.attention_norm.to(device),
            qkv=(_joined(layer.qkv).to(device),),
            qkv_bias=there(layer.qkv_bias),
            q_norm=there(layer.q_norm),
            k_norm=there(layer.k_norm),
            out=layer.out.to(device),
            out_bias=there(layer.out_bias),
            mlp_norm=layer.mlp_norm.to(device),
            gate_up=(_joined(layer.gate_up).to(device),),
            gate_up_bias=there(layer.gate_up_bias),
            down=layer.down.to(device),
            down_bias=there(layer.down_bias),
            window=layer.window,
        )

    embedding = weights.embedding.to(device)
    return replace(
        weights,
        embedding=embedding,
        head=embedding if weights.head is weights.embedding else weights.head.to(device),
        final_norm=weights.final_norm.to(device),
        layers=tuple(layer_there(layer) for layer in weights.layers),
    )
