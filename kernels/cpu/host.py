"""The Python side of the compiled network: tensors in, arrays of the compiled code's types, one call a step."""

import time
import weakref
from collections.abc import Callable, Sequence
from threading import Thread as Worker
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from branchwork.kernels.cpu.amx import TILE_ROWS
from branchwork.kernels.cpu.attention import BLOCK, make_scratch, make_sums
from branchwork.kernels.cpu.cached import compiled_for
from branchwork.kernels.cpu.choice import TeamChoice
from branchwork.kernels.cpu.low_rank import LowMatrix, lay_rows, make_room, pack_low
from branchwork.kernels.cpu.matrix import Matrix, make_product_scratch, num_bytes, pack_matrix
from branchwork.kernels.cpu.memory import zeros
from branchwork.kernels.cpu.network import (
    HEAD,
    LAYERS,
    STOP,
    Cache,
    Job,
    LowMatrices,
    Shape,
    Shared,
    Thread,
    Tokens,
    Weights,
    Workspace,
    work_on,
)
from branchwork.kernels.cpu.sampling import choose_tokens
from branchwork.kernels.cpu.sampling import make_scratch as make_sampling_scratch
from branchwork.kernels.cpu.team import SUPPORTED, Team, make_team
from branchwork.kernels.cpu.tile import PANEL, compiled_tiles, padded_rows
from branchwork.kernels.errors import KernelError
from branchwork.kernels.low_rank import check_adapters
from branchwork.kernels.quantized import BITS_OF_HEAD, BITS_OF_LAYERS, Quantize
from branchwork.kernels.sampling import SamplingRows
from branchwork.kernels.weights import AdapterWeights, DecoderWeights, LayerWeights

Ints = npt.NDArray[np.int32]

_BYTES_PER_US, _FLOP_PER_US = 40_000, 200_000
"""What one core of a server reads and multiplies, roughly."""
_TEAM_FROM_US = 1000
"""Work of one thread, from which on a team shares it always."""


def array_of(tensor: Tensor) -> npt.NDArray[Any]:
    """The tensor's memory as numpy; bfloat16 as uint16."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    array: npt.NDArray[Any] = tensor.numpy()
    return array


def runs_compiled(weights: DecoderWeights, quantize: Quantize = "none") -> bool:
    """Whether the compiled network can run these weights: float32 (as they are only) or bfloat16, of even widths,
    without experts."""
    layer = weights.layers[0]
    if any(layer.experts is not None for layer in weights.layers):
        return False
    widths = (layer.qkv[0].shape[1], layer.out.shape[1], layer.down.shape[1], weights.head_dim)
    known = weights.embedding.dtype is torch.bfloat16 or (
        weights.embedding.dtype is torch.float32 and quantize == "none"
    )
    return known and weights.embedding.device.type == "cpu" and not any(w % 2 for w in widths)


class Network:
    """A decoder on the CPU with its KV pool. One step at a time; `run`, then `logits`, `sample` and `hidden`.

    k_pool, v_pool  [L, S, kv_heads, head_dim] of the weights' dtype
    slot_table      [rows, max_len] int32
    cos, sin        [length, head_dim / 2] float32; rows may be filled in later, before they are needed
    max_tokens      new tokens of one step, at most
    max_logit_rows  rows of logits of one call, at most
    threads         of a step that has work for them; a smaller step takes one
    quantize        levels that weights are rounded to: `quantized.Quantize`; the weights must be bfloat16
    adapters        of the weights' dtype, never rounded
    """

    def __init__(
        self,
        weights: DecoderWeights,
        k_pool: Tensor,
        v_pool: Tensor,
        slot_table: Tensor,
        cos: Tensor,
        sin: Tensor,
        max_tokens: int,
        max_logit_rows: int,
        threads: int,
        quantize: Quantize = "none",
        adapters: AdapterWeights | None = None,
    ) -> None:
        if not runs_compiled(weights, quantize):
            known = "float32 or bfloat16" if quantize == "none" else "bfloat16"
            raise KernelError("weights", f"{known} of even widths", str(weights.embedding.dtype))
        stored = array_of(weights.embedding).dtype
        heads = (weights.num_heads, weights.num_kv_heads, weights.head_dim)
        has_bias = any(layer.qkv_bias is not None for layer in weights.layers)
        shape = Shape(*heads, weights.eps, weights.layers[0].q_norm is not None, has_bias)
        self._weights = _packed(weights, quantize, adapters)
        self._work = _workspace(self._weights, weights, stored, max_tokens, max_logit_rows)
        self._room = _room(max_tokens, len(slot_table))
        self._shared = _shared_room(len(slot_table))
        self._num_adapters = 0 if adapters is None else adapters.number
        rank = adapters.rank if adapters else 0
        self._adapted = make_room(max_tokens if adapters else 0, rank, stored)
        self._job = Job(
            *(np.zeros(1, np.int64) for _ in range(6)), np.zeros(max_logit_rows, np.int32)
        )
        cache = Cache(*map(array_of, (k_pool, v_pool, slot_table, cos, sin)))
        rooms = self._room, self._shared, self._adapted
        self._state = (shape, self._weights, self._work, cache, *rooms, self._job)
        packed, layers = self._weights, weights.layers
        matrices = (packed.qkv, packed.out, packed.gate_up, packed.down)
        linears = (*layers[0].qkv, layers[0].out, *layers[0].gate_up, layers[0].down)
        self._layers_work = (
            sum(map(num_bytes, matrices)),
            len(layers) * sum(w.numel() for w in linears),
        )
        self._head_work = num_bytes(packed.head), weights.head.numel()
        self._vocab_size = weights.head.shape[0]
        self._sampling = make_sampling_scratch(self._vocab_size)
        self._choose: Callable[..., None] | None = None  # for rows as the first ones were

        tiles = compiled_tiles(stored)
        widest = max(layers[0].qkv[0].shape[1], layers[0].out.shape[1], layers[0].down.shape[1])

        def thread(part: int, team: Team) -> Thread:
            gathered = zeros((TILE_ROWS, widest), stored)
            scratch = make_scratch(*heads, stored, tiles), make_product_scratch(), gathered
            return Thread(part, team, tiles, *scratch)

        self._alone = self._first = thread(0, make_team(1))
        self._compute = compiled_for(work_on, *self._state, self._alone)
        self._choice = TeamChoice()
        if threads > 1 and SUPPORTED:
            team = make_team(threads)
            self._first = thread(0, team)
            for part in range(1, threads):
                state = (*self._state, thread(part, team))
                Worker(target=work_on, args=state, name=f"kernels-{part}", daemon=True).start()
            weakref.finalize(self, _dismiss, self._state, self._first)

    def run(
        self,
        token_ids: Ints,
        positions: Ints,
        slots: Ints,
        rows: Ints,
        query_start: Ints,
        kv_len: Ints,
        shared_prefixes: Sequence[tuple[Sequence[int], int]] = (),
        adapters: Ints | None = None,
    ) -> None:
        """Compute the new tokens: K and V go to their slots, hidden states stay for `logits` and `hidden`.

        shared_prefixes  (requests by their place in `rows`, number of their first positions that are the same slots);
                         those requests have one new token each, and are named once
        adapters         of each token, from 1 on; 0: it has none. None: no token has one
        """
        room, job, num_tokens = self._room, self._job, len(token_ids)
        if num_tokens > len(room.ids):
            raise KernelError("token_ids", f"at most {len(room.ids)}", str(num_tokens))
        if len(rows) > len(room.rows):
            raise KernelError("rows", f"at most {len(room.rows)}", str(len(rows)))
        room.ids[:num_tokens] = token_ids
        room.positions[:num_tokens] = positions
        room.slots[:num_tokens] = slots
        room.rows[: len(rows)] = rows
        room.query_start[: len(rows) + 1] = query_start
        room.kv_len[: len(rows)] = kv_len
        job.num_groups[0] = self._share(shared_prefixes, len(rows))
        job.num_tiles[0] = 0 if adapters is None else self._adapt(adapters, num_tokens)
        job.kind[0], job.num_tokens[0], job.num_requests[0] = LAYERS, num_tokens, len(rows)
        self._work_on(num_tokens, *self._layers_work)

    def _share(self, prefixes: Sequence[tuple[Sequence[int], int]], num_requests: int) -> int:
        shared, at = self._shared, 0
        shared.blocks_of[:num_requests] = 0
        for group, (members, length) in enumerate(prefixes):
            shared.members[at : at + len(members)] = members
            shared.blocks_of[list(members)] = length // BLOCK
            shared.length[group] = length
            at += len(members)
            shared.start[group + 1] = at
        return len(prefixes)

    def _adapt(self, adapters: Ints, num_tokens: int) -> int:
        if len(adapters) != num_tokens:
            raise KernelError("adapters", f"{num_tokens} of tokens", str(len(adapters)))
        check_adapters(adapters, self._num_adapters)
        return lay_rows(adapters, self._adapted) if adapters.any() else 0

    def logits(self, of_tokens: Ints) -> npt.NDArray[np.float32]:
        """Scores of what follows some tokens of the last `run`, [len(of_tokens), V]; overwritten by the next call."""
        job, num_rows = self._job, len(of_tokens)
        if num_rows > len(job.of_tokens):
            raise KernelError("of_tokens", f"at most {len(job.of_tokens)}", str(num_rows))
        job.of_tokens[:num_rows] = of_tokens
        job.kind[0], job.num_rows[0] = HEAD, num_rows
        self._work_on(num_rows, *self._head_work)
        return self._work.logits[:num_rows, : self._vocab_size]

    def _work_on(self, num_rows: int, weight_bytes: int, num_weights: int) -> None:
        """Do the job; with the team where it takes one thread so long that waiting for others is nothing to it.

        Of smaller jobs it is found out, by kind and by number of rows to a power of two.
        """
        weights_us = weight_bytes / _BYTES_PER_US
        products_us = 2 * num_weights * num_rows / _FLOP_PER_US
        if self._first is self._alone or max(weights_us, products_us) > _TEAM_FROM_US:
            self._compute(*self._state, self._first)
            return
        size = 2 * num_rows.bit_length() + int(self._job.kind[0] == HEAD)
        by_team = self._choice.next_is_team(size)
        began = time.perf_counter()
        self._compute(*self._state, self._first if by_team else self._alone)
        self._choice.took(size, by_team, time.perf_counter() - began)

    def sample(self, rows: SamplingRows, num_ids: int) -> Ints:
        """Choose a token for each row of the last `logits` among its first `num_ids`: `api.sample`."""
        out = np.empty(rows.num_rows, np.int32)
        arguments = self._work.logits, num_ids, rows, self._sampling, out
        if self._choose is None:
            self._choose = compiled_for(choose_tokens, *arguments)
        self._choose(*arguments)
        return out

    @property
    def hidden(self) -> npt.NDArray[np.float32]:
        """The last layer's output before the final norm, of the last `run`: [≥ T, hidden]."""
        return self._work.hidden


def _dismiss(state: tuple[Any, ...], first: Thread) -> None:
    """Let the other threads of a team end."""
    state[-1].kind[0] = STOP
    work_on(*state, first)


def _packed(
    weights: DecoderWeights, quantize: Quantize, adapters: AdapterWeights | None
) -> Weights:
    layers, bits = weights.layers, BITS_OF_LAYERS[quantize]

    def norms(part: Callable[[LayerWeights], Tensor | None], width: int) -> npt.NDArray[np.float32]:
        rows = [part(layer) for layer in layers]
        return np.stack([np.ones(width, np.float32) if r is None else _floats(r) for r in rows])

    def biases(
        part: Callable[[LayerWeights], Tensor | None], width: int
    ) -> npt.NDArray[np.float32]:
        out = np.zeros((len(layers), -(-width // PANEL) * PANEL), np.float32)
        for row, bias in zip(out, map(part, layers), strict=True):
            if bias is not None:
                row[:width] = _floats(bias)
        return out

    def rare_biases(part: Callable[[LayerWeights], Tensor | None]) -> npt.NDArray[np.float32]:
        width = max(0 if (bias := part(layer)) is None else len(bias) for layer in layers)
        return biases(part, width)

    def packed(part: Callable[[LayerWeights], Tensor]) -> Matrix:
        return pack_matrix(len(layers), (part(layer) for layer in layers), bits)

    return Weights(
        embedding=array_of(weights.embedding.contiguous()),
        attention_norm=norms(lambda layer: layer.attention_norm, 0),
        qkv=packed(lambda layer: torch.cat(layer.qkv)),
        qkv_bias=biases(lambda layer: layer.qkv_bias, sum(map(len, layers[0].qkv))),
        q_norm=norms(lambda layer: layer.q_norm, weights.head_dim),
        k_norm=norms(lambda layer: layer.k_norm, weights.head_dim),
        out=packed(lambda layer: layer.out),
        out_bias=rare_biases(lambda layer: layer.out_bias),
        mlp_norm=norms(lambda layer: layer.mlp_norm, 0),
        gate_up=packed(lambda layer: _in_turns(*layer.gate_up)),
        gate_up_bias=biases(
            lambda layer: (
                None if layer.gate_up_bias is None else _in_turns(*layer.gate_up_bias.chunk(2))
            ),
            len(_in_turns(*layers[0].gate_up)),
        ),
        down=packed(lambda layer: layer.down),
        down_bias=rare_biases(lambda layer: layer.down_bias),
        windows=np.array([layer.window for layer in layers], np.int64),
        final_norm=_floats(weights.final_norm),
        head=pack_matrix(1, [weights.head], BITS_OF_HEAD[quantize]),
        low=_packed_adapters(weights, adapters),
    )


def _packed_adapters(weights: DecoderWeights, adapters: AdapterWeights | None) -> LowMatrices:
    layer, stored = weights.layers[0], array_of(weights.embedding).dtype

    def packed(
        name: str, parts: Sequence[Tensor], arrange: Callable[..., Tensor] = _in_order
    ) -> LowMatrix:
        widths = tuple(map(len, parts))
        # Where each column of the product comes from, counted from 1 on, as padding is 0.
        numbers = torch.arange(1, sum(widths) + 1).view(-1, 1)
        found = arrange(*torch.split(numbers, list(widths))).view(-1).numpy() - 1
        rows = np.full(-(-len(found) // PANEL) * PANEL, -1)
        rows[: len(found)] = found
        every = [getattr(layer, name) for layer in adapters.layers] if adapters else []
        return pack_low(
            [low and (array_of(low.shrink), array_of(low.expand)) for low in every]
            or [None] * len(weights.layers),
            rows,
            widths,
            parts[0].shape[1] * stored.itemsize // 4,
            adapters.number if adapters else 0,
            adapters.rank if adapters else 2,
            stored,
        )

    return LowMatrices(
        packed("qkv", layer.qkv),
        packed("out", (layer.out,)),
        packed("gate_up", layer.gate_up, _in_turns),
        packed("down", (layer.down,)),
    )


def _room(max_tokens: int, max_requests: int) -> Tokens:
    def ints(length: int) -> Ints:
        return np.zeros(length, np.int32)

    return Tokens(
        ids=ints(max_tokens),
        positions=ints(max_tokens),
        slots=ints(max_tokens),
        rows=ints(max_requests),
        query_start=ints(max_requests + 1),
        kv_len=ints(max_requests),
    )


def _shared_room(max_requests: int) -> Shared:
    def ints(length: int) -> Ints:
        return np.zeros(length, np.int32)

    return Shared(
        ints(max_requests + 1), ints(max_requests), ints(max_requests), ints(max_requests)
    )


def _workspace(
    packed: Weights,
    weights: DecoderWeights,
    stored: npt.DTypeLike,
    max_tokens: int,
    max_logit_rows: int,
) -> Workspace:
    hidden, q_width = weights.embedding.shape[1], weights.num_heads * weights.head_dim
    max_tokens, max_logit_rows = padded_rows(max_tokens), padded_rows(max_logit_rows)
    return Workspace(
        hidden=zeros((max_tokens, hidden), np.float32),
        normed=zeros((max(max_tokens, max_logit_rows), hidden), stored),
        qkv=zeros((max_tokens, packed.qkv_bias.shape[1]), np.float32),
        q=zeros((max_tokens, q_width), stored),
        attended=zeros((max_tokens, q_width), stored),
        activated=zeros((max_tokens, packed.gate_up_bias.shape[1] // 2), stored),
        logits=zeros((max_logit_rows, packed.head.panels.shape[1] * PANEL), np.float32),
        shared=make_sums(max_tokens, weights.num_heads, weights.head_dim),
    )


def _floats(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.float().numpy()
    return array


def _in_order(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _in_turns(gate: Tensor, up: Tensor) -> Tensor:
    """Rows of gate and up in turns of 32, padded with zeros to whole turns, as the kernel's epilogue pairs them."""
    turn, width, rest = PANEL // 2, len(gate), gate.shape[1:]
    padded = gate.new_zeros(2, -(-width // turn) * turn, *rest)
    padded[0, :width], padded[1, :width] = gate, up
    return padded.view(2, -1, turn, *rest).transpose(0, 1).reshape(-1, *rest)
