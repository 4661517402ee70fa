from pathlib import Path

import pytest
import torch

from branchwork.commands import doctor
from branchwork.runtime.wire.config import RuntimeConfig


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("", None)]
)
def test_the_quota_of_the_control_group_is_read(
    tmp_path: Path, text: str, cores: float | None
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert doctor.cpu_quota(file) == cores
    assert doctor.cpu_quota(tmp_path / "absent") is None


def test_more_threads_than_cores_are_advised_against() -> None:
    first = next(iter(doctor.check_processor(RuntimeConfig(threads=1000))))
    assert (first.what, first.state) == ("cores", "slow")
    assert first.remedy.startswith("--threads ")


def test_a_pool_that_does_not_fit_is_bad_and_names_the_option_to_change() -> None:
    (finding,) = doctor.check_memory(RuntimeConfig(kv_slots=1_000_000_000))
    assert finding.state == "bad"
    assert "at most --kv-slots" in finding.found


def test_a_model_that_is_not_there_ends_the_visit(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--model", "/nowhere/at/all"]) == 1
    assert "bad" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_device_is_named_and_why_it_is_no_gpu() -> None:
    (finding,) = doctor.check_device(RuntimeConfig())
    assert (finding.state, finding.found) == (
        "ok",
        "CPU (there is no GPU here that torch can use)",
    )
    (finding,) = doctor.check_device(RuntimeConfig(device="cuda"))
    assert (finding.state, finding.remedy) == ("bad", "--device auto")
