"""When the compiled network is ready. The first start after an installation compiles it, in a process of its own:
a compiler beside the engine would hold the interpreter's lock for seconds.

    python -m branchwork.kernels.cpu.compiling        compiles for every type, ahead of the first start
"""

import fcntl
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from branchwork.kernels.cpu.cached import cache_folder, machine_digest, sources_digest
from branchwork.kernels.cpu.host import Network
from branchwork.kernels.sampling import SamplingRows
from branchwork.kernels.weights import DecoderWeights, LayerWeights

DTYPES = (torch.bfloat16, torch.float32)


def is_compiled(dtype: torch.dtype) -> bool:
    """Whether the code for a type is on disk, so that it loads in a fraction of a second."""
    return _mark(dtype).exists()


def start_compiling(dtype: torch.dtype) -> "subprocess.Popen[bytes]":
    """Compile in a child process; it ends when the code is on disk."""
    command = [sys.executable, "-m", __name__, str(dtype).removeprefix("torch.")]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def compile_now(dtype: torch.dtype) -> None:
    """Compile by running the smallest network there is, unless another process has done it or is at it."""
    mark = _mark(dtype)
    with mark.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mark.exists():
            return
        network = _smallest_network(dtype)
        one, zero = np.ones(1, np.int32), np.zeros(1, np.int32)
        network.run(zero, zero, zero, zero, np.array([0, 1], np.int32), one)
        network.logits(zero)
        network.sample(_greedy_row(), 2)
        mark.touch()


def _mark(dtype: torch.dtype) -> Path:
    kind = str(dtype).removeprefix("torch.")
    return cache_folder() / f"branchwork-{kind}-{sources_digest()}-{machine_digest()}"


def _smallest_network(dtype: torch.dtype) -> Network:
    hidden, heads, dim = 16, 1, 16

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    layer = LayerWeights(
        attention_norm=zeros(hidden),
        qkv=(zeros(dim, hidden), zeros(dim, hidden), zeros(dim, hidden)),
        qkv_bias=None,
        q_norm=None,
        k_norm=None,
        out=zeros(hidden, dim),
        out_bias=None,
        mlp_norm=zeros(hidden),
        gate_up=(zeros(hidden, hidden), zeros(hidden, hidden)),
        gate_up_bias=None,
        down=zeros(hidden, hidden),
        down_bias=None,
        window=0,
    )
    table = zeros(2, hidden)
    weights = DecoderWeights(table, (layer,), zeros(hidden), table, heads, heads, dim, 1e-6)
    pool = zeros(1, 2, heads, dim)
    table, angles = torch.zeros(1, 2, dtype=torch.int32), torch.zeros(2, dim // 2)
    return Network(weights, pool, pool.clone(), table, angles, angles, 1, 1, threads=1)


def _greedy_row() -> SamplingRows:
    """One row of the plainest sampling."""
    floats, ints, words = (np.zeros(1, kind) for kind in (np.float32, np.int32, np.int64))
    no, starts = np.zeros(1, np.bool_), np.zeros(2, np.int32)
    return SamplingRows(
        temperature=floats,
        top_p=floats,
        min_p=floats,
        top_k=ints,
        repetition_penalty=floats,
        frequency_penalty=floats,
        presence_penalty=floats,
        seed=words,
        position=words,
        has_mask=no,
        has_penalties=no,
        mask=np.zeros((0, 1), np.int32),
        edit_start=starts,
        edit_ids=ints,
        edit_values=floats,
        context_start=starts,
        context_ids=ints,
        generated_start=starts,
        generated_ids=ints,
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or [str(dtype).removeprefix("torch.") for dtype in DTYPES]:
        compile_now(getattr(torch, name))
