"""A wrong argument is refused by name, with what was expected and what was found, before anything is launched."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.kernels.ahead import recorded
from tests.kernels.cases import (
    BF16,
    F32,
    INT8,
    advancing,
    attention,
    automata,
    expert_product,
    ints,
    quantized,
    rope,
    routing,
    sampling,
)
from tests.kernels.sampling_rows import Row
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from branchwork.kernels import api
from branchwork.kernels.errors import KernelError
from branchwork.kernels.quantized import quantize_linear
from branchwork.kernels.weights import LowRank


def on_a_gpu(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same tensors as a GPU would hold them, without their values. Call it within FakeTensorMode."""
    return {
        name: torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
        if isinstance(value, Tensor)
        else value
        for name, value in arguments.items()
    }


ATTENTION: list[tuple[dict[str, Any], str]] = [
    ({"k_pool": torch.zeros(4, 2, 16)}, "k_pool: expected torch.bfloat16 on cpu, found torch.float32"),
    ({"out": torch.zeros(2, 4, 8, dtype=BF16)}, r"out: expected shape \[2, 4, 16\], found shape \[2, 4, 8\]"),
    ({"q": torch.zeros(2, 16, 4, dtype=BF16).mT}, "q: expected a contiguous tensor, found strides"),
    ({"q": torch.zeros(2, 3, 16, dtype=BF16), "out": torch.zeros(2, 3, 16, dtype=BF16)},
     "q: expected a multiple of 2 heads, found 3"),
    ({"slot_table": torch.zeros(2, 9, dtype=torch.int64)}, "slot_table: expected int32, found torch.int64"),
    ({"rows": ints(0)}, "query_start: expected shape|kv_len: expected shape"),
    ({"k_scale": torch.ones(2, 2)}, "v_scale: expected scales for both of K and V, or for none, found one alone"),
    ({"k_scale": torch.ones(2, 2), "v_scale": torch.ones(2, 2)}, "k_pool: expected float8_e4m3fn or int8 beside"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ATTENTION, ids=[m[:30] for _, m in ATTENTION])
def test_attention_refuses(change: dict[str, Any], message: str) -> None:
    good = attention([1, 1], [5, 6], (4, 2, 16), BF16)
    with pytest.raises(KernelError, match=message):
        api.attend(**{**good, **change})
    assert good["out"].isnan().all()


def test_scales_have_a_place_for_each_slot_and_head() -> None:
    good = attention([1, 1], [5, 6], (4, 2, 16), BF16, stored=INT8)
    with pytest.raises(
        KernelError, match=r"k_scale: expected shape \[18, 2\], found shape \[18, 1\]"
    ):
        api.attend(**{**good, "k_scale": good["k_scale"][:, :1].contiguous()})
    with pytest.raises(KernelError, match=r"v_scale: expected float32, found torch\.bfloat16"):
        api.attend(**{**good, "v_scale": good["v_scale"].bfloat16()})


def test_a_gpu_needs_a_workspace_and_a_head_that_fits_a_tile() -> None:
    good, odd = attention([1], [5], (4, 2, 16), BF16), attention([1], [5], (4, 2, 24), BF16)
    with FakeTensorMode(), recorded() as launches:
        with pytest.raises(KernelError, match="workspace: expected a workspace and max_new_tokens"):
            api.attend(**on_a_gpu(good))
        work = api.make_workspace(1, 1, 4, 16, "cuda")
        with pytest.raises(
            KernelError, match=r"q: expected a head dimension of \(16, 32.*found 24"
        ):
            api.attend(**on_a_gpu(odd), workspace=work, max_new_tokens=1)
        with pytest.raises(KernelError, match="q_out: expected a head dimension"):
            api.rope_store_kv(**on_a_gpu(rope((4, 2, 24), F32)))
        small = api.make_workspace(1, 1, 2, 16, "cuda")
        with pytest.raises(KernelError, match="workspace: expected room for"):
            api.attend(**on_a_gpu(good), workspace=small, max_new_tokens=1)
        uncounted = replace(work, arrived=torch.empty(1, dtype=torch.int32, device="cuda"))
        with pytest.raises(KernelError, match="workspace: expected counts of 2"):
            api.attend(**on_a_gpu(good), workspace=uncounted, max_new_tokens=1)
    assert launches == []


def test_tensors_of_two_devices_are_refused() -> None:
    good = attention([1], [5], (4, 2, 16), BF16)
    with FakeTensorMode():
        there = on_a_gpu(good)
        with pytest.raises(
            KernelError,
            match=r"k_pool: expected torch\.bfloat16 on cuda.*found .* on cpu",
        ):
            api.attend(**{**there, "k_pool": torch.zeros(12, 2, 16, dtype=BF16)})
        with pytest.raises(KernelError, match="kv_len: expected a tensor on cuda"):
            api.attend(**{**there, "kv_len": torch.zeros(1, dtype=torch.int32)})


def test_a_slot_outside_of_the_pool_is_found_when_asked_for() -> None:
    good = attention([1, 1], [5, 6], (4, 2, 16), BF16)
    api.check_slots(good["slot_table"], good["rows"], good["kv_len"], len(good["k_pool"]))
    good["slot_table"][good["rows"][1], 5] = 99
    with pytest.raises(KernelError, match=r"slot_table: expected slots 0 to 17, found .* to 99"):
        api.check_slots(good["slot_table"], good["rows"], good["kv_len"], len(good["k_pool"]))
    # Past the length anything may stand.
    good["slot_table"][good["rows"][1], 5:] = -7
    api.check_slots(good["slot_table"], good["rows"], good["kv_len"] - 1, len(good["k_pool"]))


def test_the_other_operations_refuse() -> None:
    weight = quantized(1, 4, 128, F32)
    with pytest.raises(KernelError, match="x: expected at most 64 rows, found 65"):
        api.quantized_linear(torch.zeros(65, 256), weight["weight"], torch.zeros(65, 37))
    with pytest.raises(KernelError, match=r"out: expected shape \[1, 37\]"):
        api.quantized_linear(weight["x"], weight["weight"], torch.zeros(1, 36))
    with pytest.raises(KernelError, match="group: expected 64 or 128, found 32"):
        quantize_linear(torch.zeros(4, 200), 4, 32)
    for room in (None, api.make_room(F32, "cpu", 4 * (64 * 256 - 1))):
        with pytest.raises(KernelError, match="room: expected at least 16384 elements, found"):
            api.linear(torch.zeros(65, 256), weight["weight"], room)
    with pytest.raises(KernelError, match=r"room: expected .*float32 on cpu, found .*bfloat16"):
        api.linear(torch.zeros(65, 256), weight["weight"], api.make_room(BF16, "cpu"))
    for first in (8, 32):
        with pytest.raises(KernelError, match="first: expected a multiple of 16 within 37 out"):
            api.widen(weight["weight"], first, torch.empty(6, 256))
    machines = automata()
    with pytest.raises(KernelError, match=r"tokens: expected shape \[12\]"):
        api.fsm_advance(ints(1, 2), machines["automata"], machines["places"])
    with pytest.raises(KernelError, match="k_norm: expected a norm for both of q and k"):
        api.rope_store_kv(**rope((4, 2, 16), F32) | {"q_norm": torch.ones(16)})
    choice = sampling(Row(), Row())
    rows = api.device_rows(choice["rows"], 100)
    work = api.make_sampling_workspace(2, 100, "cpu")
    with pytest.raises(KernelError, match="logits: expected rows without gaps"):
        api.sample_on_device(choice["logits"].T.contiguous().T, rows, choice["out"], work)
    made = expert_product(3, 4, 2, F32)
    with pytest.raises(KernelError, match="out: expected a multiple of 3 rows, found 5"):
        api.expert_linear(**made | {"out": torch.empty(5, 75)})
    with pytest.raises(KernelError, match=r"count: expected shape \[4\], found shape \[3\]"):
        api.expert_linear(**made | {"count": made["count"][:3]})
    routed = routing(torch.zeros(3, 4), 2)
    with pytest.raises(KernelError, match=r"weight: expected float32 \[3, 1 to 4\]"):
        api.route(**routed | {"weight": torch.empty(3, 5)})
    with pytest.raises(KernelError, match=r"pairs: expected shape \[4, 3\]"):
        api.route(**routed | {"pairs": routed["pairs"].T.contiguous()})
    with pytest.raises(KernelError, match=r"values: expected shape \[6, -1\]"):
        api.combine(torch.zeros(5, 8), torch.zeros(3, 2), torch.zeros(3, 8))
    lanes = advancing()
    with pytest.raises(KernelError, match=r"chosen: expected shape \[6\], found shape \[2\]"):
        api.advance_rows(ints(1, 2), lanes["lanes"], lanes["rows"])
    with pytest.raises(KernelError, match=r"rows.token: expected shape \[4\], found shape \[6\]"):
        api.fill_lanes(lanes["rows"], torch.zeros(3, 9, dtype=torch.int32), lanes["lanes"])


def test_adapters_refuse() -> None:
    weights = LowRank(torch.zeros(3, 16, 32), torch.zeros(3, 24, 8), (16, 8))
    every = api.AdapterWeights(3, 8, (api.LayerAdapters(qkv=weights),))
    rows = api.make_adapter_rows(every, 5, "cpu")
    x, out = torch.zeros(5, 32), torch.zeros(5, 24)
    with pytest.raises(KernelError, match=r"adapter: expected int32, found torch\.int64"):
        api.group_rows(torch.zeros(5, dtype=torch.int64), rows)
    with pytest.raises(
        KernelError, match=r"rows.rows: expected shape \[3, 4\], found shape \[3, 5"
    ):
        api.group_rows(ints(0, 1, 2, 3), rows)
    with pytest.raises(KernelError, match=r"x: expected shape \[-1, 32\], found shape \[5, 31\]"):
        api.low_rank(torch.zeros(5, 31), weights, rows, out)
    with pytest.raises(KernelError, match=r"x: expected torch\.float32 .*found torch\.bfloat16"):
        api.low_rank(x.bfloat16(), weights, rows, out)
    with pytest.raises(KernelError, match=r"out: expected shape \[5, 24\], found shape \[5, 25\]"):
        api.low_rank(x, weights, rows, torch.zeros(5, 25))
    with pytest.raises(KernelError, match=r"weights.expand: expected shape \[3, 23, 8\]"):
        api.low_rank(x, replace(weights, widths=(16, 7)), rows, out)
    with pytest.raises(KernelError, match=r"weights.shrink: expected shape \[3, 8, -1\]"):
        api.low_rank(x, replace(weights, widths=(24,)), rows, out)
    with pytest.raises(KernelError, match=r"rows.count: expected shape \[3\], found shape \[2\]"):
        api.low_rank(x, weights, replace(rows, count=ints(0, 0)), out)
    with pytest.raises(KernelError, match=r"rows.rows: expected shape \[3, 4\]"):
        api.low_rank(x[:4], weights, rows, out[:4])
    with FakeTensorMode(), recorded() as launches:
        there = LowRank(
            *(torch.empty(t.shape, device="cuda") for t in (weights.shrink, weights.expand)),
            (16, 8),
        )
        on_device = api.AdapterWeights(3, 8, (api.LayerAdapters(qkv=there),))
        grouped = api.make_adapter_rows(on_device, 5, "cuda")
        arguments = on_a_gpu({"x": x, "out": out})
        small = replace(grouped, room=torch.empty(79, device="cuda"))
        with pytest.raises(
            KernelError, match=r"rows\.room: expected at least 80 of float32, found 79"
        ):
            api.low_rank(**arguments, weights=there, rows=small)
        assert launches == []
        api.low_rank(**arguments, weights=there, rows=grouped)
    assert [launch.name for launch in launches] == ["shrink_kernel", "expand_kernel"]


def test_a_call_on_a_gpu_reaches_triton() -> None:
    decode, extend = (
        attention([1, 1], [5, 6], (4, 2, 16), BF16),
        attention([2, 1], [5, 6], (4, 2, 16), BF16),
    )
    turn = rope((4, 2, 16), F32)
    with FakeTensorMode(), recorded() as launches, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        work = api.make_workspace(2, 8, 4, 16, "cuda")
        api.attend(**on_a_gpu(decode), workspace=work, max_new_tokens=1)
        api.attend(**on_a_gpu(extend), workspace=work, max_new_tokens=2)
        api.rope_store_kv(**on_a_gpu(turn))
    names = [
        "decode_kernel",
        "extend_kernel",
        "merge_extend_kernel",
        "rope_store_kv_kernel",
    ]
    assert [launch.name for launch in launches] == names
