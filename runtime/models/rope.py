"""Rotary position embedding: the frequencies of each scaling form, and their tables of cosines and sines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from branchwork.runtime.models.fields import mapping, number
from branchwork.runtime.wire.errors import ModelError

_YARN = (
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
)
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")

# The numbers that each form needs, and those it may have.
_FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (("factor",), _YARN),
    "llama3": (_LLAMA3, ()),
}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Which rotation: the form's name, its base, and its own numbers under the names of config.json.

    `truncate`: whether YaRN's range of dimensions is rounded to whole ones.
    """

    kind: str
    theta: float
    head_dim: int
    max_position: int
    numbers: Mapping[str, float]
    truncate: bool = True


def read_rope(raw: Mapping[str, Any], head_dim: int, max_position: int) -> RopeConfig:
    """Read `rope_parameters`, or the older `rope_theta` and `rope_scaling`. Raises ModelError."""
    numbers = mapping(raw, "rope_parameters") or mapping(raw, "rope_scaling")
    kind = str(numbers.get("rope_type") or numbers.get("type") or "default")
    if kind not in _FORMS:
        raise ModelError(
            f"config.json: rope type {kind!r} is not supported; known are {', '.join(_FORMS)}"
        )
    needed, optional = _FORMS[kind]
    read = {name: number(numbers, name) for name in needed}
    read.update({name: number(numbers, name) for name in optional if numbers.get(name) is not None})
    if numbers.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ModelError("config.json: partial_rotary_factor other than 1 is not supported")
    theta = number(numbers, "rope_theta", number(raw, "rope_theta", 10000.0))
    if theta <= 1:
        raise ModelError(f"config.json: rope_theta must be above 1, found {theta}")
    if kind == "llama3" and read["high_freq_factor"] <= read["low_freq_factor"]:
        raise ModelError("config.json: high_freq_factor must be above low_freq_factor")
    truncate = numbers.get("truncate", True) is not False
    return RopeConfig(kind, theta, head_dim, max_position, read, truncate)


def frequencies(rope: RopeConfig) -> tuple[Tensor, float]:
    """The angle per position of each pair of dimensions, float32 [head_dim / 2], and the factor on cos and sin.

    Raises nothing for a RopeConfig that `read_rope` made. For "dynamic" they hold up to `max_position`.
    """
    plain = _plain(rope.theta, rope.head_dim)
    if rope.kind == "linear":
        return plain / rope.numbers["factor"], 1.0
    if rope.kind == "llama3":
        return _llama3(plain, rope.numbers), 1.0
    if rope.kind == "yarn":
        return _yarn(rope)
    return plain, 1.0


class Rotation:
    """Cosines and sines of positions 0 to max_len − 1, [max_len, head_dim / 2] float32, filled in as they are needed.

    They are functions of the position alone, so that K in the cache is good for every request. For "dynamic" this
    means that a position beyond `max_position` is rotated as if it were the last one, as in decoding step by step.
    """

    def __init__(self, rope: RopeConfig, max_len: int, device: torch.device | str = "cpu") -> None:
        self._rope = rope
        self._filled = 0
        # Untouched memory costs nothing, and the tables of a long context take a second to compute.
        self.cos = torch.empty(max_len, rope.head_dim // 2, device=device)
        self.sin = torch.empty(max_len, rope.head_dim // 2, device=device)

    def fill(self, length: int) -> None:
        """Have all positions below `length` ready."""
        if length <= self._filled:
            return
        first, last = self._filled, min(max(length, 2 * self._filled, 1024), len(self.cos))
        angles, factor = _angles(self._rope, first, last)
        self.cos[first:last] = angles.cos() * factor
        self.sin[first:last] = angles.sin() * factor
        self._filled = last


def _angles(rope: RopeConfig, first: int, last: int) -> tuple[Tensor, float]:
    """Angles of positions first to last, and the factor on their cosines and sines."""
    inv_freq, factor = frequencies(rope)
    positions = torch.arange(first, last, dtype=torch.float32)
    angles = torch.outer(positions, inv_freq)
    far = positions >= rope.max_position
    if rope.kind == "dynamic" and bool(far.any()):
        angles[far] = positions[far].unsqueeze(1) * _dynamic(rope, positions[far] + 1)
    return angles, factor


def _plain(theta: float, head_dim: int) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return torch.reciprocal(theta**exponents)


def _dynamic(rope: RopeConfig, lengths: Tensor) -> Tensor:
    """NTK-aware base for each sequence length (bloc97 and emozilla 2023), [len(lengths), head_dim / 2]."""
    factor, dim = rope.numbers["factor"], rope.head_dim
    grown = factor * lengths / rope.max_position - (factor - 1)
    base = rope.theta * grown ** (dim / (dim - 2))
    exponents = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
    return torch.reciprocal(base.unsqueeze(1) ** exponents)


def _llama3(plain: Tensor, numbers: Mapping[str, float]) -> Tensor:
    """Llama 3.1: long waves are divided, short ones kept, those between interpolated."""
    factor, low, high = numbers["factor"], numbers["low_freq_factor"], numbers["high_freq_factor"]
    old_length = numbers["original_max_position_embeddings"]
    wavelength = 2 * math.pi / plain
    smooth = (old_length / wavelength - low) / (high - low)
    between = (1 - smooth) * plain / factor + smooth * plain
    scaled = torch.where(wavelength > old_length / low, plain / factor, between)
    return torch.where(wavelength < old_length / high, plain, scaled)


def _yarn(rope: RopeConfig) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023, sections 3.2 and 3.4)."""
    numbers, dim = rope.numbers, rope.head_dim
    factor = numbers["factor"]
    old_length = numbers.get("original_max_position_embeddings", rope.max_position)

    def dimension_of(rotations: float) -> float:
        return (dim * math.log(old_length / (rotations * 2 * math.pi))) / (2 * math.log(rope.theta))

    low = dimension_of(numbers.get("beta_fast", 32))
    high = dimension_of(numbers.get("beta_slow", 1))
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    plain = _plain(rope.theta, dim)
    return plain / factor * ramp + plain * (1 - ramp), _yarn_attention_factor(numbers, factor)


def _yarn_attention_factor(numbers: Mapping[str, float], factor: float) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if "attention_factor" in numbers:
        return numbers["attention_factor"]
    if "mscale" in numbers and "mscale_all_dim" in numbers:
        return mscale(numbers["mscale"]) / mscale(numbers["mscale_all_dim"])
    return mscale(1.0)
