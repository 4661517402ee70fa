"""Every launch compiles for devices that are not there, and takes no more of them than kernels/budget.json allows."""

import json
from dataclasses import replace

import pytest
from tests.kernels.ahead import ARCHS, compile_for, launches_of
from tests.kernels.budget import CANNOT, PATH
from tests.kernels.launches import LAUNCHES

from branchwork.kernels.configs import MAX_SHARED_BYTES

BUDGET = json.loads(PATH.read_text())
AT_EVERY_TEST = {"decode": ARCHS, "extend": ARCHS, "rope": (90,), "pointwise": (90,), "sample": (90,),
                 "fsm_advance": (90,), "lanes": (90,), "int4 linear": (90,),
                 "extend, int8 kv": (80,), "experts, 256 tokens, 8 experts": (90,), "widen int4": (90,)}  # fmt: skip
"""Compiled by `make test`; the others, for all devices, by `make test-all`."""


def marks(name: str, arch: int) -> list[pytest.MarkDecorator]:
    return [] if arch in AT_EVERY_TEST.get(name, ()) else [pytest.mark.slow]


EVERYTHING = [
    pytest.param(name, arch, id=f"{name} sm_{arch}", marks=marks(name, arch))
    for name in LAUNCHES
    for arch in ARCHS
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "arch"), EVERYTHING)
def test_a_launch_stays_within_its_budget(name: str, arch: int) -> None:
    for launch in launches_of(LAUNCHES[name], arch):
        if (name, f"sm_{arch}") in CANNOT:
            if "fp8e4nv" in str(launch.signature):
                with pytest.raises(Exception, match="fp8e4nv"):
                    compile_for(launch, arch)
            continue
        found = compile_for(launch, arch)
        allowed = BUDGET[name][launch.key][f"sm_{arch}"]
        assert found.stack == 0, f"{launch.key} spills"
        assert found.instructions["spills"] == 0, f"{launch.key} spills"
        assert found.waits_first == launch.options.get("launch_pdl", False), launch.key
        assert found.registers <= allowed["registers"], launch.key
        assert found.shared <= min(allowed["shared"], MAX_SHARED_BYTES[arch]), launch.key
        assert found.blocks_at_once >= allowed["blocks_at_once"], launch.key
        for instruction in allowed["needs"]:
            assert found.instructions[instruction] > 0, f"{launch.key} lost its {instruction}"


def test_the_budget_has_a_line_for_each_launch_and_no_other() -> None:
    for name, work in LAUNCHES.items():
        assert [launch.key for launch in launches_of(work, 90)] == list(BUDGET[name])
    assert list(BUDGET) == list(LAUNCHES)


EARLY = {
    "rms_norm_kernel",
    "rms_norm_kernel with residual",
    "rope_store_kv_kernel",
    "decode_kernel",
    "silu_mul_kernel",
}


@pytest.mark.parametrize("arch", ARCHS)
def test_a_layer_s_launches_begin_early_where_a_device_can(arch: int) -> None:
    names = ("decode", "rope", "pointwise")
    launches = [one for name in names for one in launches_of(LAUNCHES[name], arch)]
    early = {one.key for one in launches if one.options.get("launch_pdl")}
    assert early == (EARLY if arch >= 90 else set())
    assert all(one.constants["EARLY"] == (arch >= 90) for one in launches if one.key in EARLY)


def test_a_kernel_that_begins_early_and_does_not_wait_is_noticed() -> None:
    launch = next(one for one in launches_of(LAUNCHES["rope"], 90))
    hasty = replace(launch, constants=launch.constants | {"EARLY": False})
    assert not compile_for(hasty, 90).waits_first


def test_the_budget_holds_what_makes_the_kernels_fast() -> None:
    assert BUDGET["extend"]["extend_kernel"]["sm_90"]["needs"] == ["HGMMA"]
    for arch in ARCHS:
        needs = BUDGET["decode"]["decode_kernel"][f"sm_{arch}"]["needs"]
        assert needs == ["16-byte loads", "fences"]
        assert BUDGET["sample"]["scan_kernel"][f"sm_{arch}"]["needs"] == ["16-byte loads"]
