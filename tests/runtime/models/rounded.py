"""What a model computes whose weights are rounded: the same model with the rounded weights written out."""

from dataclasses import replace

from torch import Tensor

from branchwork.kernels.quantized import (
    BITS_OF_HEAD,
    BITS_OF_LAYERS,
    INT4_GROUP,
    Bits,
    dequantize,
    quantize_linear,
)
from branchwork.runtime.models.decoder import Decoder
from branchwork.runtime.models.loader import LoadedModel


def rounded_model(model: LoadedModel) -> LoadedModel:
    """The same model with its weights rounded as `model.quantize` says, in its own type: exact in float32."""

    def rounded(weight: Tensor, bits: Bits | None) -> Tensor:
        if bits is None:
            return weight
        return dequantize(quantize_linear(weight, bits, INT4_GROUP)).to(weight.dtype).contiguous()

    weights, bits = model.decoder.weights, BITS_OF_LAYERS[model.quantize]
    layers = tuple(
        replace(
            layer,
            qkv=tuple(rounded(part, bits) for part in layer.qkv),
            out=rounded(layer.out, bits),
            gate_up=tuple(rounded(part, bits) for part in layer.gate_up),
            down=rounded(layer.down, bits),
        )
        for layer in weights.layers
    )
    head = rounded(weights.head, BITS_OF_HEAD[model.quantize])
    rounded_weights = replace(weights, layers=layers, head=head)
    decoder = Decoder(model.config, rounded_weights, None, model.decoder.adapters)
    return replace(model, decoder=decoder, quantize="none")
