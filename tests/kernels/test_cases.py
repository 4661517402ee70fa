"""The shared cases, on each form of the operations: the reference, triton's interpreter, a device if there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kernels.cases import CASES, Case, compare, widened
from tests.kernels.forms import REFERENCE, TRITON
from torch import Tensor

from branchwork.kernels import api
from branchwork.kernels.device_rows import device_rows, make_sampling_workspace

ROOT = Path(__file__).parents[2]

SAMPLING_CASES = [case for case in CASES if case.operation == "sample"]

PROCESSES = [
    ["attend: decode", "attend_as_tuned"],
    ["attend: shared"],
    ["attend: extend"],
    ["sample"],
    ["route", "expert_linear", "combine", "experts", "low_rank"],
    ["rope_store_kv", "rms_norm", "add_rms_norm", "silu_mul", "embed", "fsm_advance", "fill_lanes", "advance_rows",
     "quantized_linear", "widen"],
]  # fmt: skip
"""The cases that share a process of the interpreter, by the beginning of their names."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_is_its_own_form_in_float64(case: Case) -> None:
    found, expected = case.make(), widened(case.make())
    REFERENCE[case.operation](**found)
    REFERENCE[case.operation](**expected)
    assert compare(case, found, expected) is None


@pytest.mark.timeout(400)
@pytest.mark.parametrize("prefixes", PROCESSES, ids=lambda names: names[0])
def test_triton_is_the_reference_in_the_interpreter(prefixes: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.kernels.interpreted", *prefixes]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=380
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [(line["case"], line["wrong"]) for line in lines if line.get("wrong")]
    assert wrong == []
    assert done.returncode == 0, (lines[-1:], done.returncode, done.stderr[-2000:])
    wanted = [str(case) for case in CASES if str(case).startswith(tuple(prefixes))]
    assert [line["case"] for line in lines if "case" in line] == wanted


@pytest.mark.parametrize("case", SAMPLING_CASES, ids=str)
def test_rows_laid_out_for_a_device_choose_the_same_in_the_reference(case: Case) -> None:
    found, expected = case.make(), widened(case.make())
    logits, out = found["logits"], found["out"]
    rows = device_rows(found["rows"], logits.shape[1])
    work = make_sampling_workspace(len(out), logits.shape[1], "cpu")
    api.sample_on_device(logits, rows, out, work, found["logprobs"])
    REFERENCE["sample"](**expected)
    assert compare(case, found, expected) is None


def test_every_case_has_a_process() -> None:
    names = [name for prefixes in PROCESSES for name in prefixes]
    for case in CASES:
        assert sum(str(case).startswith(name) for name in names) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_triton_is_the_reference_on_a_device(case: Case) -> None:
    found, expected = case.make(), widened(case.make())
    moved: dict[int, Tensor] = {}
    there = {name: _moved(value, moved) for name, value in found.items()}
    TRITON[case.operation](**there)
    torch.cuda.synchronize()
    REFERENCE[case.operation](**expected)
    back = {name: there[name].cpu() for name in case.written}
    assert compare(case, found | back, expected) is None


def _moved(value: Any, moved: dict[int, Tensor]) -> Any:
    """A tensor, or a dataclass of tensors, on the device; views keep their strides, and one tensor stays one."""
    if isinstance(value, Tensor):
        if id(value) not in moved:
            storage = value.untyped_storage()
            whole = torch.empty(0, dtype=value.dtype).set_(storage).cuda()
            moved[id(value)] = whole.as_strided(value.shape, value.stride(), value.storage_offset())
        return moved[id(value)]
    if hasattr(value, "__dataclass_fields__"):
        fields = {name: _moved(getattr(value, name), moved) for name in value.__dataclass_fields__}
        return type(value)(**fields)
    return value


def test_a_tensor_under_two_names_is_one_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "cuda", Tensor.clone)
    found, moved = next(c for c in CASES if c.operation == "fsm_advance").make(), {}
    there = {name: _moved(value, moved) for name, value in found.items()}
    assert there["places"].state is there["state"]
    assert there["state"] is not found["state"]
