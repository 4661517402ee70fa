"""A small Llama in plain torch, with the parameter names of Hugging Face."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the network, named as in a Llama `config.json`."""

    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 4096
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5

    def config(self) -> dict[str, Any]:
        """The fields of `config.json` that follow from the shape."""
        head_dim = self.hidden_size // self.num_attention_heads
        return {**asdict(self), "head_dim": head_dim}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [batch, heads, length, head_dim] in the half-split form of Llama."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q [batch, heads, length, head_dim] over fewer heads of k and v.

    Written out: on short rows torch's own kernel for the CPU takes four times as long, mostly in
    its backward pass.
    """
    batch, heads, length, head_dim = q.shape
    rows, groups = batch * k.shape[1], heads // k.shape[1]
    grouped = (q * head_dim**-0.5).reshape(rows, groups * length, head_dim)
    future = torch.full((length, length), -torch.inf, dtype=q.dtype).triu(1)
    scores = grouped @ k.reshape(rows, length, head_dim).mT
    weights = (scores.view(rows, groups, length, length) + future).softmax(-1)
    mixed: Tensor = weights.view(rows, groups * length, length) @ v.reshape(rows, length, head_dim)
    return mixed.view(batch, heads, length, head_dim)


class Attention(nn.Module):
    """Causal self-attention with grouped heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.hidden_size // shape.num_attention_heads
        kv_size = shape.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch, length, hidden] to the same shape."""
        batch, length, hidden = x.shape
        q, k, v = (
            projection(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = attend(q, k, v)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, hidden))
        return out


class MLP(nn.Module):
    """The gated feed-forward layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] to the same shape."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and MLP, each on the normed stream and added to it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch, length, hidden] to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    """Everything under `model.` in a transformers checkpoint."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class Llama(nn.Module):
    """The language model; the embedding is also the head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.reset()

    def reset(self) -> None:
        """Normal weights; what writes to the stream starts small, as in GPT-2 (section 2.3)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = 1 / math.sqrt(2 * self.shape.num_hidden_layers) if last else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)
        self.look_back()

    @torch.no_grad()
    def look_back(self) -> None:
        """Let the first heads of the first layer begin as looks at one and two tokens back.

        Copying needs heads that say what stood before a token, and finding them by descent takes
        a while (C. Olsson et al., *In-context learning and induction heads*, 2022). All tokens
        get the same first component; from it these heads make a constant key, and queries that
        are this key, rotated to where it was one, two, … positions ago.
        """
        head_dim = self.shape.hidden_size // self.shape.num_attention_heads
        groups = self.shape.num_attention_heads // self.shape.num_key_value_heads
        fast = head_dim // 6  # the pairs that turn fast enough to tell neighbours apart
        first = self.model.layers[0].self_attn
        assert isinstance(first, Attention)
        self.model.embed_tokens.weight[:, 0] = 0.08
        first.k_proj.weight[:fast, 0] = 1.2
        cos, sin = (table[:, :fast] for table in self.rotary(groups + 1, torch.float32))
        for head in range(groups):
            start, middle = head * head_dim, head * head_dim + head_dim // 2
            first.q_proj.weight[start : start + fast, 0] = 1.2 * cos[head + 1]
            first.q_proj.weight[middle : middle + fast, 0] = -1.2 * sin[head + 1]

    def rotary(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each [length, head_dim / 2]."""
        head_dim = self.shape.hidden_size // self.shape.num_attention_heads
        exponents = torch.arange(0, head_dim, 2) / head_dim
        angles = torch.outer(torch.arange(length), self.shape.rope_theta**-exponents)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        """ids [batch, length] to the logits [n, vocabulary] at n `places` of the flattened ids."""
        x = self.model.embed_tokens(ids)
        cos, sin = self.rotary(ids.shape[1], x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return F.linear(self.model.norm(x.flatten(0, 1)[places]), self.model.embed_tokens.weight)
