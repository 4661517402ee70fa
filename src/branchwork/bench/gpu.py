"""What every measurement on a GPU shares: that there is one, how a time is taken, what the device can do at best."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from branchwork.runtime.wire.errors import ConfigError

Work = Callable[[], object]
FLUSH_BYTES = 256 << 20
"""More than any second-level cache holds: what is measured comes from memory."""


def require_gpu() -> str:
    """The device's name. Raises ConfigError where there is none."""
    if not torch.cuda.is_available():
        raise ConfigError("this bench measures a GPU and this machine has none that torch can use")
    return torch.cuda.get_device_name()


def time_us(work: Work, repeat: int = 30) -> float:
    """Median microseconds of `work` as one captured graph, with cold caches."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles, and makes what libraries make on their first call
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    flush = torch.zeros(FLUSH_BYTES // 4, device="cuda")
    times: list[float] = []
    for _ in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        # Read, not written: what is written would have to leave the cache while the work reads.
        flush.sum()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this device reaches on the plainest work: bytes copied (read and written) and bf16 products."""

    bytes_per_us: float
    flop_per_us: float


def measure_ceilings() -> Ceilings:
    """Copy a gigabyte; multiply two square matrices of 8,192."""
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    copied = time_us(lambda: target.copy_(source))
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    product = torch.empty_like(a)
    multiplied = time_us(lambda: torch.mm(a, a, out=product))
    return Ceilings(2 * source.numel() / copied, 2 * 8192**3 / multiplied)
