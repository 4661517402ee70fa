"""A decoder of the Llama family (Touvron et al. 2023), in plain terms: the layers of the paper over `kernels.api`.

Llama, Mistral, Qwen2 and Qwen3 differ only in what `ModelConfig` names: biases, norms on q and k, windows, rotation;
Mixtral and Qwen3-MoE also in having experts.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.models.batch import BatchTensors, KvCache
from branchwork.runtime.models.config import ModelConfig

Linear = kernels.PackedLinear | kernels.QuantizedLinear


@dataclass(frozen=True, slots=True)
class Linears:
    """The matrices of one layer as they are applied."""

    qkv: Linear
    out: Linear
    mlp: "Gated | Mixture"


@dataclass(frozen=True, slots=True)
class Gated:
    """What a layer does after attention: down(silu(gate) · up)."""

    gate_up: Linear
    down: Linear

    @property
    def num_bytes(self) -> int:
        """What is read of it for a row."""
        return self.gate_up.num_bytes + self.down.num_bytes


@dataclass(frozen=True, slots=True)
class Mixture:
    """The same by the experts that the router chooses for each token (Fedus et al. 2022)."""

    router: Linear
    experts: kernels.ExpertWeights

    @property
    def num_bytes(self) -> int:
        """What is read of it for a row."""
        experts = self.experts
        of_all = experts.gate_up.nbytes + experts.down.nbytes
        return self.router.num_bytes + of_all * experts.choices // len(experts.gate_up)


@dataclass(frozen=True, slots=True)
class RoundedMatrices:
    """The matrices of a decoder in levels, and where they are widened for steps of many tokens (`kernels.linear`)."""

    layers: tuple[Linears, ...]
    head: kernels.QuantizedLinear
    room: kernels.LinearRoom


class Decoder:
    """The network: weights, and how they are applied. With `rounded`, the matrices of `weights` are not looked at.

    `adapters` add to the products of the tokens that have one.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: kernels.DecoderWeights,
        rounded: RoundedMatrices | None = None,
        adapters: kernels.AdapterWeights | None = None,
    ) -> None:
        self.config = config
        self.weights = weights
        self.adapters = adapters
        self._rounded = rounded
        self._room = None if rounded is None else rounded.room

    @cached_property
    def _linears(self) -> tuple[Linears, ...]:
        """Laid out on first use: a compiled network may make it unnecessary."""
        if self._rounded is not None:
            return self._rounded.layers
        return tuple(
            Linears(
                kernels.pack_linear(joined(layer.qkv), layer.qkv_bias),
                kernels.pack_linear(layer.out, layer.out_bias),
                _mlp(layer),
            )
            for layer in self.weights.layers
        )

    @cached_property
    def _head(self) -> Linear:
        return (
            kernels.pack_linear(self.weights.head) if self._rounded is None else self._rounded.head
        )

    @property
    def matrix_bytes(self) -> int:
        """What a step of one token reads of layers and head."""
        return self._head.num_bytes + sum(
            one.qkv.num_bytes + one.out.num_bytes + one.mlp.num_bytes for one in self._linears
        )

    def with_adapters(self, adapters: kernels.AdapterWeights | None) -> "Decoder":
        """The same network with these, on its device."""
        return Decoder(self.config, self.weights, self._rounded, adapters)

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
        scale = config.head_dim**-0.5

        kernels.embed(batch.token_ids, self.weights.embedding, out=hidden)
        delta: Tensor | None = None
        layers = zip(
            self.weights.layers, self._linears, self._layer_adapters, cache.layers, strict=True
        )
        for layer, linears, low, (k_pool, v_pool, k_scale, v_scale) in layers:
            self._add_norm(delta, hidden, layer.attention_norm, normed)
            qkv = self._linear(normed, linears.qkv, low.qkv, batch.adapted)
            kernels.rope_store_kv(
                qkv, cache.rotation.cos, cache.rotation.sin, batch.positions, batch.slots, k_pool, v_pool, q,
                layer.q_norm, layer.k_norm, config.rms_norm_eps, k_scale, v_scale,
            )  # fmt: skip
            kernels.attend(
                q, k_pool, v_pool, cache.slot_table, batch.rows, batch.query_start, batch.kv_len, attended, scale,
                layer.window, k_scale, v_scale, batch.workspace, batch.max_new_tokens, batch.shared,
            )  # fmt: skip
            delta = self._linear(attended.view(num_tokens, -1), linears.out, low.out, batch.adapted)
            self._add_norm(delta, hidden, layer.mlp_norm, normed)
            if isinstance(linears.mlp, Gated):
                delta = self._gated(normed, linears.mlp, low, batch.adapted)
            else:
                delta = self._mixed(normed, linears.mlp)
        return hidden if delta is None else hidden.add_(delta)

    @property
    def _layer_adapters(self) -> tuple[kernels.LayerAdapters, ...]:
        if self.adapters is None:
            return (kernels.LayerAdapters(),) * self.config.num_layers
        return self.adapters.layers

    def _gated(
        self,
        x: Tensor,
        mlp: Gated,
        low: kernels.LayerAdapters,
        adapted: kernels.AdapterRows | None,
    ) -> Tensor:
        both = self._linear(x, mlp.gate_up, low.gate_up, adapted)
        activated = x.new_empty(len(x), both.shape[1] // 2)
        kernels.silu_mul(both, out=activated)
        return self._linear(activated, mlp.down, low.down, adapted)

    def _mixed(self, x: Tensor, mlp: Mixture) -> Tensor:
        experts, scores = mlp.experts, self._linear(x, mlp.router)
        num_tokens, num_experts = scores.shape
        num_pairs = num_tokens * experts.choices

        def ints(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.int32, device=x.device)

        weight = torch.empty(num_tokens, experts.choices, dtype=torch.float32, device=x.device)
        count, pairs = ints(num_experts), ints(num_experts, num_tokens)
        kernels.route(scores, experts.normalised, weight, ints(*weight.shape), count, pairs)
        both = x.new_empty(num_pairs, experts.gate_up.shape[1])
        activated = x.new_empty(num_pairs, experts.down.shape[2])
        values = x.new_empty(num_pairs, x.shape[1])
        kernels.expert_linear(x, experts.gate_up, count, pairs, out=both)
        kernels.silu_mul(both, out=activated)
        kernels.expert_linear(activated, experts.down, count, pairs, out=values)
        out = torch.empty_like(x)
        kernels.combine(values, weight, out)
        return out

    def normed(self, hidden: Tensor) -> Tensor:
        """Rows of `forward` through the final norm: what the head and poolers read."""
        out = torch.empty_like(hidden)
        kernels.rms_norm(hidden, self.weights.final_norm, self.config.rms_norm_eps, out)
        return out

    def logits(self, normed: Tensor) -> Tensor:
        """Scores of the next token, [rows, vocab_size], of rows of `normed`."""
        return self._linear(normed, self._head)

    def _linear(
        self,
        x: Tensor,
        weight: Linear,
        low: kernels.LowRank | None = None,
        adapted: kernels.AdapterRows | None = None,
    ) -> Tensor:
        out = kernels.linear(x, weight, self._room)
        if low is not None and adapted is not None:
            kernels.low_rank(x, low, adapted, out)
        return out

    def _add_norm(self, delta: Tensor | None, hidden: Tensor, weight: Tensor, out: Tensor) -> None:
        if delta is None:
            kernels.rms_norm(hidden, weight, self.config.rms_norm_eps, out)
        else:
            kernels.add_rms_norm(delta, hidden, weight, self.config.rms_norm_eps, out)


def _mlp(layer: kernels.LayerWeights) -> Gated | Mixture:
    if layer.experts is not None:
        return Mixture(kernels.pack_linear(layer.experts.router), layer.experts)
    return Gated(
        kernels.pack_linear(joined(layer.gate_up), layer.gate_up_bias),
        kernels.pack_linear(layer.down, layer.down_bias),
    )


def joined(parts: tuple[Tensor, ...]) -> Tensor:
    """Matrices that are applied together, as one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
