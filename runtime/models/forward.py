"""The two ways a step is computed: through the decoder in plain terms, or through the compiled network."""

import logging
import threading
from concurrent.futures import Future
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.kernels.api import SamplingRows
from branchwork.runtime.models.batch import Batch, KvCache
from branchwork.runtime.models.decoder import Decoder

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int32]


class Forward(Protocol):
    """One step of a model: `run`, and then its logits and states until the next `run`."""

    def run(self, batch: Batch) -> None:
        """Compute the new tokens; their K and V go to their slots."""
        ...

    def head(self, tokens: Ints) -> None:
        """Compute the logits of what follows some of the step's tokens."""
        ...

    def logits(self) -> Tensor:
        """Those of the last `head`, [len(tokens), vocab_size]; valid until the next."""
        ...

    def sample(self, rows: SamplingRows, num_ids: int) -> Ints:
        """Choose a token for each row of the last `head`, among its first `num_ids`."""
        ...

    def states(self, first: int, last: int) -> Tensor:
        """Final hidden states of tokens first to last, after the last norm."""
        ...


class PlainForward:
    """Operation by operation, on any device."""

    def __init__(self, decoder: Decoder, cache: KvCache) -> None:
        self._decoder = decoder
        self._cache = cache
        self._hidden = self._logits = torch.empty(0)

    @torch.inference_mode()
    def run(self, batch: Batch) -> None:
        """See `Forward.run`."""
        self._hidden = self._decoder.forward(batch.tensors(self._decoder.adapters), self._cache)

    @torch.inference_mode()
    def head(self, tokens: Ints) -> None:
        """See `Forward.head`."""
        rows = self._hidden[torch.from_numpy(tokens)]
        self._logits = self._decoder.logits(self._decoder.normed(rows))

    def logits(self) -> Tensor:
        """See `Forward.logits`."""
        return self._logits

    @torch.inference_mode()
    def sample(self, rows: SamplingRows, num_ids: int) -> Ints:
        """See `Forward.sample`."""
        chosen = torch.empty(rows.num_rows, dtype=torch.int32)
        kernels.sample(self._logits[:, :num_ids], rows, chosen)
        ids: Ints = chosen.numpy()
        return ids

    @torch.inference_mode()
    def states(self, first: int, last: int) -> Tensor:
        """See `Forward.states`."""
        return self._decoder.normed(self._hidden[first:last])


class CompiledForward:
    """All layers in one compiled call, on the CPU."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        max_tokens: int,
        max_logit_rows: int,
        threads: int,
        quantize: kernels.Quantize = "none",
    ) -> None:
        # The network has its own copy of the matrices: those of the decoder can go.
        self._decoder = decoder.without_layers()
        self._logits = np.empty((0, 0), np.float32)
        self._network = kernels.Network(
            decoder.weights, cache.k, cache.v, cache.slot_table, cache.rotation.cos,
            cache.rotation.sin, max_tokens, max_logit_rows, threads, quantize, decoder.adapters,
        )  # fmt: skip

    def run(self, batch: Batch) -> None:
        """See `Forward.run`."""
        self._network.run(
            batch.token_ids, batch.positions, batch.slots,
            batch.rows, batch.query_start, batch.kv_len, batch.shared_prefixes, batch.adapters_of_tokens,
        )  # fmt: skip

    def head(self, tokens: Ints) -> None:
        """See `Forward.head`."""
        self._logits = self._network.logits(tokens)

    def logits(self) -> Tensor:
        """See `Forward.logits`."""
        return torch.from_numpy(self._logits)

    def sample(self, rows: SamplingRows, num_ids: int) -> Ints:
        """See `Forward.sample`."""
        return self._network.sample(rows, num_ids)

    def states(self, first: int, last: int) -> Tensor:
        """See `Forward.states`."""
        hidden = torch.from_numpy(self._network.hidden[first:last])
        return self._decoder.normed(hidden.to(self._decoder.dtype))


def compiled_later(
    decoder: Decoder, cache: KvCache, max_tokens: int, max_logit_rows: int, threads: int
) -> "Future[CompiledForward]":
    """Compile beside the engine, which the first start after an installation must; the future holds the result.

    Where that fails, it never comes, and the log says why.
    """
    future: Future[CompiledForward] = Future()

    def work() -> None:
        child = kernels.start_compiling(decoder.dtype)
        if child.wait() != 0:
            log.warning("the CPU kernels could not be compiled; running without them")
            return
        future.set_result(CompiledForward(decoder, cache, max_tokens, max_logit_rows, threads))

    threading.Thread(target=work, name="compile-kernels", daemon=True).start()
    return future
