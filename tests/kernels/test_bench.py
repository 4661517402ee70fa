"""The bench of the kernels, as far as a machine without a GPU can tell: every call it makes, and its refusal."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.kernels.ahead import recorded

from branchwork.bench import attention, engine, gpu, kernels
from branchwork.bench.gpu import Ceilings, Work
from branchwork.bench.random_model import model_config
from branchwork.commands import bench
from branchwork.kernels import api
from branchwork.runtime.wire.errors import ConfigError


def test_every_line_of_the_bench_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DEVICE", "meta")  # tensors without memory
    monkeypatch.setattr(api, "runs_triton", lambda tensor: True)
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
    assert names[:5] == [
        "decode 32 x 2,048",
        "decode 32 x 2,048, int8 K/V",
        "decode 32 x 2,048, fp8 K/V",
        "decode 1 x 32,768",
        "decode 1 x 32,768, int8 K/V",
    ]
    assert {"cascade 64 x (4,096 + 256)", "int4 linear, 2,048 rows"} < set(names)
    assert len(called) == sum(2 if row[5] else 1 for row in report.rows)
    kernels_run = {launch.name for launch in launches}
    assert {
        "decode_kernel",
        "cascade_kernel",
        "extend_kernel",
        "choose_kernel",
        "int4_linear_kernel",
        "widen_kernel",
        "route_kernel",
        "expert_linear_kernel",
    } <= kernels_run
    # 32 requests of 2,048 tokens: 268 MB of K and V, 67 µs at 4 TB/s.
    assert report.rows[0][3] == pytest.approx(67.1, abs=0.1)
    # Half of it in int8, and a scale for each 128 bytes.
    assert report.rows[1][3] == pytest.approx(67.1 / 2 * 132 / 128, abs=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_bench_says_so_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="measures a GPU and this machine has none"):
        gpu.require_gpu()
    for name in ("kernels", "engine"):
        with pytest.raises(ConfigError):
            bench.main([name])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_that_measures_one_says_so_and_fails(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "gpu" / "run.sh"
    done = subprocess.run(
        [script, tmp_path / "results"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "this script measures a GPU and this machine has none that torch can use\n"
    )
    assert not (tmp_path / "results").exists()


def test_the_bench_of_the_engine_measures_a_tiny_model_where_there_is_no_gpu() -> None:
    setup = engine.Setup(
        config=model_config(1, 32, 48, 2, 1, 16, 300, 256), dtype=torch.float32, device="cpu", batches=(1, 3),
        prompt=5, steps=3, prompts=(20, 70), sharing=(3, 70, 4), slots=1024, compiled_peer=False,
    )  # fmt: skip
    report = engine.measure("this machine", Ceilings(bytes_per_us=1e4, flop_per_us=1e6), setup)
    assert [row[0] for row in report.rows] == [
        "decode, batch 1",
        "decode, batch 3",
        "decode, batch 1, no graphs",
        "first token of 20",
        "first token of 70",
        "constrained, batch 3",
        "masks from the host, batch 3",
        "weights in int8, batch 1",
        "weights in int8, batch 3",
        "weights in int4, batch 1",
        "weights in int4, batch 3",
        "K/V in int8, batch 3 of 20",
        "K/V in fp8_e4m3, batch 3 of 20",
        "3 × (70 + 4), shared prefix read once",
        "transformers, static cache, batch 1",
        "transformers, static cache, batch 3",
    ]
    # The peer's is a difference of two times, which so few steps leave to chance.
    assert all(row[1] > 0 for row in report.rows[:-2])
    # 1 layer: qkv 64 x 32, out 32 x 32, gate and up 96 x 32, down 32 x 48; and a head of 300 x 32; in float32.
    read = 4 * (64 * 32 + 32 * 32 + 96 * 32 + 32 * 48 + 300 * 32)
    assert report.notes[0].startswith(f"Floor: {read / 1e4 / 1e3:.3g} ms")


@pytest.mark.slow
def test_the_bench_of_attention_on_the_cpu_measures_both_forms() -> None:
    options = argparse.Namespace(requests=2, tokens=70, repeat=2)
    report = attention.run(options)
    assert [row[0] for row in report.rows] == ["SDPA, keys in a row", "compiled, slots anywhere"]
    assert report.notes[0].startswith("Slots over a row: ")
