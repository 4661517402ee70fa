"""A device's runner answers as the CPU's does, token for token: over the reference, over Triton, on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.runtime.models.device_programs import (
    PROGRAMS,
    Program,
    answers,
    make_models,
    on_a_device,
    on_the_cpu,
)

from branchwork.kernels.api import KernelError
from branchwork.runtime.models.device_runner import DeviceRunner
from branchwork.runtime.plan import Plan, Sample, Sampler, Segment

ROOT = Path(__file__).parents[3]
MODELS = make_models()

IN_THE_INTERPRETER = (
    "one joins, one leaves", "shared prefixes", "constraints on the device", "weights in int4",
    "K/V in int8, shared prefixes", "two adapters and none",
)  # fmt: skip
"""Some of the programs, since a step takes half a second there; `make test-all` runs all of them."""


def check(program: Program, found: list[str], met: set[str]) -> None:
    expected, _ = answers(program, on_the_cpu(program, MODELS))
    assert found == expected
    assert set(program.meets) <= met


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_over_the_reference_every_program_gets_the_cpu_s_answers(program: Program) -> None:
    check(program, *answers(program, on_a_device(program, MODELS, "cpu")))


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(p, id=str(p), marks=[] if str(p) in IN_THE_INTERPRETER else pytest.mark.slow)
        for p in PROGRAMS
    ],
)
@pytest.mark.timeout(400)
def test_over_triton_in_the_interpreter_every_program_gets_the_cpu_s_answers(
    program: Program,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.models.interpreted", str(program)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["program"], line["wrong"], line["missed"]) == (str(program), None, [])


@pytest.mark.parametrize(("model", "number"), [("adapters", 2), ("plain", 0)])
@pytest.mark.parametrize("tokens", [(5,), (5, 6)], ids=["a decode step", "any other"])
def test_an_adapter_that_is_not_there_is_refused(
    model: str, number: int, tokens: tuple[int, ...]
) -> None:
    runner = DeviceRunner(MODELS[model], 64, 2, 32, 16)
    sample = Sample(Sampler(0.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, 0, ()), len(tokens))
    slots = np.arange(len(tokens), dtype=np.int32)
    for wrong in (number + 1, -1):
        plan = Plan((Segment(0, 0, tokens, slots, sample=sample, adapter=wrong),))
        with pytest.raises(KernelError, match=f"adapters: expected numbers from 0 to {number}"):
            runner.launch(plan)
    runner.launch(Plan((Segment(0, 0, tokens, slots, sample=sample, adapter=number),))).result()


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_on_a_gpu_every_program_gets_the_cpu_s_answers(program: Program, graphs: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    check(program, *answers(program, on_a_device(program, MODELS, "cuda", graphs)))
