"""A device's runner answers as the CPU's does, token for token: over the reference, over Triton, on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_on_a_gpu_every_program_gets_the_cpu_s_answers(program: Program, graphs: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    check(program, *answers(program, on_a_device(program, MODELS, "cuda", graphs)))
