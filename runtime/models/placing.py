"""A decoder's weights brought to a device: matrices that are applied together joined, copied or rounded."""

from dataclasses import replace

import torch
from torch import Tensor

from branchwork.kernels import api as kernels
from branchwork.runtime.models.decoder import Decoder, Gated, Linears, RoundedMatrices, joined


def placed(decoder: Decoder, device: torch.device, quantize: kernels.Quantize = "none") -> Decoder:
    """The decoder on a device, with its matrices rounded there if asked for.

    Layer by layer: of the matrices as they were stored, no more than one is there beside those in levels.
    """
    weights, adapters = decoder.weights, decoder.adapters and decoder.adapters.on_device(device)
    embedding = weights.embedding.to(device)
    common = replace(
        weights, embedding=embedding, head=embedding, final_norm=weights.final_norm.to(device)
    )
    bits, head_bits = kernels.BITS_OF_LAYERS[quantize], kernels.BITS_OF_HEAD[quantize]
    if bits is None or head_bits is None:
        layers = tuple(_copied(layer, device) for layer in weights.layers)
        head = embedding if weights.head is weights.embedding else weights.head.to(device)
        return Decoder(decoder.config, replace(common, layers=layers, head=head), None, adapters)
    vectors = tuple(_vectors(layer, device) for layer in weights.layers)
    rounded = RoundedMatrices(
        tuple(_rounded(layer, device, bits) for layer in weights.layers),
        kernels.quantize_linear(weights.head.to(device), head_bits, kernels.INT4_GROUP),
        kernels.make_room(embedding.dtype, device),
    )
    return Decoder(decoder.config, replace(common, layers=vectors), rounded, adapters)


_NOTHING = torch.empty(0)


def _vectors(layer: kernels.LayerWeights, device: torch.device) -> kernels.LayerWeights:
    """All of a layer but its matrices."""

    def there(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    return kernels.LayerWeights(
        attention_norm=layer.attention_norm.to(device),
        qkv=(),
        qkv_bias=there(layer.qkv_bias),
        q_norm=there(layer.q_norm),
        k_norm=there(layer.k_norm),
        out=_NOTHING,
        out_bias=there(layer.out_bias),
        mlp_norm=layer.mlp_norm.to(device),
        gate_up=(),
        gate_up_bias=there(layer.gate_up_bias),
        down=_NOTHING,
        down_bias=there(layer.down_bias),
        window=layer.window,
    )


def _copied(layer: kernels.LayerWeights, device: torch.device) -> kernels.LayerWeights:
    copied = replace(
        _vectors(layer, device), qkv=(joined(layer.qkv).to(device),), out=layer.out.to(device)
    )
    if (experts := layer.experts) is None:
        joint = joined(layer.gate_up).to(device)
        return replace(copied, gate_up=(joint,), down=layer.down.to(device))
    router, gate_up, down = (w.to(device) for w in (experts.router, experts.gate_up, experts.down))
    return replace(copied, experts=replace(experts, router=router, gate_up=gate_up, down=down))


def _rounded(layer: kernels.LayerWeights, device: torch.device, bits: kernels.Bits) -> Linears:
    def levels(weight: Tensor, bias: Tensor | None) -> kernels.QuantizedLinear:
        there = None if bias is None else bias.to(device)
        return kernels.quantize_linear(weight.to(device), bits, kernels.INT4_GROUP, there)

    return Linears(
        levels(joined(layer.qkv), layer.qkv_bias),
        levels(layer.out, layer.out_bias),
        Gated(
            levels(joined(layer.gate_up), layer.gate_up_bias),
            levels(layer.down, layer.down_bias),
        ),
    )
