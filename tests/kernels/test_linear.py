"""Linear layers in levels: the same product for few tokens and for many, in however little room."""

from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from branchwork.kernels import api
from branchwork.kernels.quantized import Bits, dequantize, quantize_linear, stored_levels


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("num_tokens", [1, 64, 65, 200])
def test_many_tokens_meet_the_same_weights_as_few_whatever_room_there_is(
    num_tokens: int, bits: Bits
) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    weight, bias = torch.randn(200, 150, generator=generator), torch.randn(200, generator=generator)
    rounded = quantize_linear(weight, bits, 128, bias)
    x = torch.randn(num_tokens, 150, generator=generator)
    expected = linear(x, dequantize(rounded), bias)
    for outputs in (64, 130, 4096):
        room = api.make_room(torch.float32, "cpu", 4 * 150 * outputs)
        torch.testing.assert_close(api.linear(x, rounded, room), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_matrix_is_rounded_alike_whole_and_in_parts(
    bits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(50, 200, generator=torch.Generator().manual_seed(0))
    whole = quantize_linear(weight, bits)
    monkeypatch.setattr("branchwork.kernels.quantized._OUTPUTS_AT_ONCE", 16)
    parts = quantize_linear(weight, bits)
    assert torch.equal(parts.weight, whole.weight)
    assert torch.equal(parts.scale, whole.scale)
    assert not stored_levels(whole)[:, 200:].any()
    # Half of a step between two levels, at most.
    assert ((weight - dequantize(whole)).abs() <= whole.scale.max() / 2 + 1e-6).all()
