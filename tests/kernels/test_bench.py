"""The bench of the kernels, as far as a machine without a GPU can tell: every call it makes, and its refusal."""

import argparse

import pytest
import torch
from tests.kernels.ahead import recorded

from branchwork.bench import attention, gpu, kernels
from branchwork.bench.gpu import Ceilings, Work
from branchwork.commands import bench
from branchwork.kernels import api
from branchwork.runtime.wire.errors import ConfigError


def test_every_line_of_the_bench_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(kernels, "DEVICE", "meta")  # tensors without memory
    monkeypatch.setattr(api, "_on_gpu", lambda tensor: True)
    called: list[Work] = []

    def clock(work: Work) -> float:
        called.append(work)
        work()
        return 2.0

    with recorded() as launches:
        report = kernels.measure(
            "a device", Ceilings(bytes_per_us=4e6, flop_per_us=7e8), clock=clock
        )

    names = [row[0] for row in report.rows]
    assert names[:4] == [
        "decode 32 x 2,048",
        "decode 1 x 32,768",
        "decode 128 x 1,024",
        "cascade 64 x (4,096 + 256)",
    ]
    assert len(called) == sum(2 if row[5] else 1 for row in report.rows)
    kernels_run = {launch.name for launch in launches}
    assert {
        "decode_kernel",
        "cascade_kernel",
        "extend_kernel",
        "choose_kernel",
        "int4_linear_kernel",
    } <= kernels_run
    # 32 requests of 2,048 tokens: 268 MB of K and V, 67 µs at 4 TB/s.
    assert report.rows[0][3] == pytest.approx(67.1, abs=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_bench_says_so_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="measures a GPU and this machine has none"):
        gpu.require_gpu()
    with pytest.raises(ConfigError):
        bench.main(["kernels"])


@pytest.mark.slow
def test_the_bench_of_attention_on_the_cpu_measures_both_forms() -> None:
    options = argparse.Namespace(requests=2, tokens=70, repeat=2)
    report = attention.run(options)
    assert [row[0] for row in report.rows] == ["SDPA, keys in a row", "compiled, slots anywhere"]
    assert report.notes[0].startswith("Slots over a row: ")
