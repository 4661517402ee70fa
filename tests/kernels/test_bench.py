"""The bench of the kernels, as far as a machine without a GPU can tell: every call it makes, and its refusal."""

import argparse
import json
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
    assert {"cascade 64 x (4,096 + 256)", "int4 linear 14,336 to 4,096, 2,048 rows"} < set(names)
    # Every figure of the issue that a kernel can reach, and none of them in silence.
    targets = {target.name: target for target in report.targets}
    assert set(targets) == {
        "decode 32 x 2,048, share of the copy rate",
        "decode 1 x 32,768, share of the copy rate",
        "cascade 64 x (4,096 + 256), over unshared",
        "extend 4,096 new, share of the product rate",
        "extend 8,192 new, share of the product rate",
        *(f"sample {rows} rows, {way}, share of the copy rate" for rows in (64, 256)
          for way in ("greedy", "temperature", "top-k 50", "top-p 0.9")),
        *(f"int4 linear {sizes}, {rows} rows, share of the copy rate" for rows in (1, 16)
          for sizes in ("14,336 to 4,096", "4,096 to 28,672", "4,096 to 6,144", "4,096 to 4,096")),
    }  # fmt: skip
    assert not targets["cascade 64 x (4,096 + 256), over unshared"].met
    assert (
        "cascade 64 x (4,096 + 256), over unshared: 1, to reach at least 8: MISSED" in report.text()
    )
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
        "shrink_kernel",
        "expand_kernel",
    } <= kernels_run
    # 32 requests of 2,048 tokens: 268 MB of K and V, 67 µs at 4 TB/s.
    assert report.rows[0][3] == pytest.approx(67.1, abs=0.1)
    # Four of them in a row took 2 µs.
    assert report.rows[0][1] == 0.5
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


def run_script(tmp_path: Path, *steps: str, python: str) -> subprocess.CompletedProcess[str]:
    """The script with another python, and with a nvidia-smi of ours."""
    (tmp_path / "python").write_text(f"#!/bin/sh\n{python}\n")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho a GPU\n")
    for name in ("python", "nvidia-smi"):
        (tmp_path / name).chmod(0o755)
    path = {"PYTHON": str(tmp_path / "python"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(
        [Path(__file__).parents[1] / "gpu" / "run.sh", tmp_path / "results", *steps],
        env={**os.environ, **path}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_the_script_runs_the_steps_it_is_given_and_says_last_which_targets_are_met(
    tmp_path: Path,
) -> None:
    python = 'echo "ran $*"; case "$*" in *"bench kernels"*) echo "target: x: 1, to reach at least 2: MISSED";'
    python += " exit 3;; esac"
    done = run_script(tmp_path, "kernels", "engine", python=python)
    lines = done.stdout.splitlines()
    ran = [line for line in lines if line.startswith("ran -m branchwork bench")]
    assert [line.split()[4] for line in ran] == ["kernels", "engine"]
    assert ran[1].split()[5:8] == ["--parts", "decode", "constrained"]
    assert any(line.startswith("== kernels: status 3") for line in lines)
    assert lines[-2:] == ["== targets", "target: x: 1, to reach at least 2: MISSED"]
    assert done.returncode == 1
    kept = (tmp_path / "results" / "log").read_text()
    assert all(line in kept for line in ran)

    refused = run_script(tmp_path, "kernel", python="true")
    assert (refused.returncode, refused.stderr) == (2, "no such step: kernel\n")


def test_every_option_the_script_gives_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (Path(__file__).parents[1] / "gpu" / "run.sh").read_text().split()
    parts = [word for word in words if word in engine.PARTS]
    assert sorted(set(parts)) == sorted(engine.PARTS)
    for name, module in (("kernels", kernels), ("engine", engine)):
        found: list[argparse.Namespace] = []
        monkeypatch.setattr(module, "run", lambda options, found=found: found.append(options))
        with pytest.raises(AttributeError):  # there is no report to print
            bench.main([name, "--json", "x", *(["--parts", *parts] if module is engine else [])])
        assert found[0].json == Path("x")


def test_the_bench_of_the_engine_measures_a_tiny_model_where_there_is_no_gpu(
    tmp_path: Path,
) -> None:
    setup = engine.Setup(
        config=model_config(1, 32, 48, 2, 1, 16, 300, 256), dtype=torch.float32, device="cpu", batches=(1, 3),
        prompt=5, steps=3, prompts=(20, 70), sharing=(3, 70, 4), slots=1024, compiled_peer=False,
    )  # fmt: skip
    kept = tmp_path / "engine.json"
    report = engine.measure(
        "this machine", Ceilings(bytes_per_us=1e4, flop_per_us=1e6), setup, live=kept
    )
    assert [target.name for target in report.targets] == [
        "decode, batch 1, over weight floor",
        "constrained, batch 3, over free",
    ]
    assert json.loads(kept.read_text())["targets"][1]["least"] == 0.98
    assert [row[0] for row in report.rows] == [
        "decode, batch 1",
        "decode, batch 3",
        "decode, batch 1, no graphs",
        "constrained, batch 3",
        "masks from the host, batch 3",
        "first token of 20",
        "first token of 70",
        "3 × (70 + 4), shared prefix read once",
        "weights in int8, batch 1",
        "weights in int8, batch 3",
        "weights in int4, batch 1",
        "weights in int4, batch 3",
        "K/V in int8, batch 3 of 20",
        "K/V in fp8_e4m3, batch 3 of 20",
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
