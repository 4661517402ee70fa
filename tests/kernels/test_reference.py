"""The reference against plain arithmetic in float64."""

import math

import pytest
import torch

from branchwork.kernels import api
from branchwork.kernels.errors import KernelError

F64 = torch.float64


def test_attend_is_softmax_over_the_slots_of_each_request() -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 4, 8, dtype=F64)
    k, v = torch.randn(20, 2, 8, dtype=F64), torch.randn(20, 2, 8, dtype=F64)
    table = torch.tensor([[3, 9, 1, 0], [7, 2, 19, 11]], dtype=torch.int32)
    rows, kv_len = torch.tensor([1, 0], dtype=torch.int32), torch.tensor([4, 2], dtype=torch.int32)
    start = torch.tensor([0, 2, 3], dtype=torch.int32)
    out = torch.empty_like(q)

    api.attend(q, k, v, table, rows, start, kv_len, out, scale=0.5)

    # Token 0 is the third of request 0, whose slots are 7, 2, 19, 11; token 2 the second of the other.
    for token, slots in ((0, [7, 2, 19]), (1, [7, 2, 19, 11]), (2, [3, 9])):
        for head in range(4):
            keys, values = k[slots, head // 2], v[slots, head // 2]
            weights = [math.exp(0.5 * float(q[token, head] @ key)) for key in keys]
            expected = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(
                weights
            )
            assert torch.allclose(out[token, head], expected, atol=1e-12)


def test_attend_with_a_window_sees_only_the_last_positions() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 1, 4), torch.randn(9, 1, 4), torch.randn(9, 1, 4)
    table = torch.arange(9, dtype=torch.int32).view(1, 9)
    zero, one = torch.tensor([0], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    whole, cut = torch.empty_like(q), torch.empty_like(q)
    nine, three = torch.tensor([9], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)

    api.attend(q, k, v, table, zero, one, nine, whole, scale=1.0, window=3)
    api.attend(q, k, v, table[:, 6:].contiguous(), zero, one, three, cut, scale=1.0)

    assert torch.equal(whole, cut)


def test_a_request_without_tokens_gets_zeros() -> None:
    out = torch.full((1, 1, 4), math.nan)
    pool, table = torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int32)
    zero = torch.zeros(1, dtype=torch.int32)
    one = torch.tensor([0, 1], dtype=torch.int32)
    api.attend(torch.ones(1, 1, 4), pool, pool, table, zero, one, zero, out, scale=1.0)
    assert torch.equal(out, torch.zeros(1, 1, 4))


def test_rope_turns_each_pair_by_its_angle_and_padding_writes_nothing() -> None:
    qkv = torch.tensor([[1.0, 0.0, 0.0, 1.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 7.0, 8.0]], dtype=F64)
    angles = torch.tensor([[0.0], [math.pi / 2]])
    k_pool, v_pool = torch.zeros(4, 1, 2, dtype=F64), torch.zeros(4, 1, 2, dtype=F64)
    q_out = torch.empty(2, 1, 2, dtype=F64)
    positions, slots = (
        torch.tensor([1, 1], dtype=torch.int32),
        torch.tensor([2, -1], dtype=torch.int32),
    )

    api.rope_store_kv(qkv, angles.cos(), angles.sin(), positions, slots, k_pool, v_pool, q_out)

    assert torch.allclose(q_out[0, 0], torch.tensor([0.0, 1.0], dtype=F64), atol=1e-6)
    assert torch.allclose(k_pool[2, 0], torch.tensor([-1.0, 0.0], dtype=F64), atol=1e-6)
    assert torch.equal(v_pool[2, 0], torch.tensor([5.0, 6.0], dtype=F64))
    assert not k_pool[[0, 1, 3]].any()
    assert not v_pool[[0, 1, 3]].any()


def test_norms_and_silu_are_their_formulas() -> None:
    x, weight = torch.tensor([[3.0, 4.0]], dtype=F64), torch.tensor([2.0, 1.0], dtype=F64)
    out, residual = torch.empty_like(x), torch.tensor([[0.0, 1.0]], dtype=F64)

    api.rms_norm(x, weight, 0.0, out)
    assert torch.allclose(out, torch.tensor([[6.0, 4.0]], dtype=F64) / math.sqrt(12.5))

    api.add_rms_norm(torch.tensor([[3.0, 3.0]], dtype=F64), residual, weight, 0.0, out)
    assert torch.equal(residual, x)
    assert torch.allclose(out, torch.tensor([[6.0, 4.0]], dtype=F64) / math.sqrt(12.5))

    gated = torch.empty(1, 1, dtype=F64)
    api.silu_mul(torch.tensor([[2.0, 3.0]], dtype=F64), gated)
    assert float(gated) == pytest.approx(2 / (1 + math.exp(-2)) * 3)


def test_logprobs_are_log_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]], dtype=F64)
    norm = math.log(1 + math.e + math.e**3)
    out = torch.empty(1)
    api.target_logprobs(logits, torch.tensor([1], dtype=torch.int32), out)
    assert float(out) == pytest.approx(1 - norm)
    ids, values = api.top_logprobs(logits, 2)
    assert ids.tolist() == [[2, 1]]
    assert values[0].tolist() == pytest.approx([3 - norm, 1 - norm])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": torch.empty(2, 2)}, r"out: expected shape \[1, 2\], found shape \[2, 2\]"),
        (
            {"out": torch.empty(1, 2, dtype=F64)},
            "out: expected torch.float32 on cpu, found torch.float64",
        ),
        ({"out": torch.empty(2, 1).t()}, "out: expected a contiguous tensor, found strides"),
        ({"weight": torch.ones(3)}, r"weight: expected shape \[2\], found shape \[3\]"),
    ],
    ids=["shape", "dtype", "layout", "weight"],
)
def test_a_wrong_argument_is_named_with_what_was_expected(
    change: dict[str, torch.Tensor], message: str
) -> None:
    good = {"x": torch.ones(1, 2), "weight": torch.ones(2), "out": torch.empty(1, 2)}
    # A [1, 2] view of a [2, 1] tensor counts as contiguous; two rows do not.
    if "strides" in message:
        good["x"] = torch.ones(1, 2)
        change = {"out": torch.empty(1, 4)[:, ::2]}
    with pytest.raises(KernelError, match=message):
        api.rms_norm(eps=1e-6, **{**good, **change})
