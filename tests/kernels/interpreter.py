"""Cures for what triton 3.6.0's CPU interpreter gets wrong; only tests use it, and it must be imported first.

The interpreter holds a bfloat16 as its raw 16 bits. Left alone it multiplies those bits in `tl.dot`, cuts them off
instead of rounding in casts, and casts float8 by arithmetic of its own. And numpy 2.4 no longer turns an array of one
element into an index, which `tl.range` relies on. Arithmetic on bfloat16 stays wrong: kernels widen after each load.

Most of its time goes into describing types and shapes, anew for each value; here each is described once.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton.language as tl
from tests.kernels.ptx import run
from triton.runtime import interpreter

Handle = interpreter.TensorHandle
Builder = interpreter.InterpreterBuilder

_FLOAT8 = {tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2}


def _widened(handle: Any) -> Any:
    """A handle of bfloat16 or float8 as float32; any other as it is."""
    scalar = handle.dtype.scalar
    if scalar == tl.bfloat16:
        return Handle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
    if scalar in _FLOAT8:
        bits = torch.from_numpy(np.ascontiguousarray(handle.data).view(np.uint8))
        return Handle(bits.view(_FLOAT8[scalar]).float().numpy(), tl.float32)
    return handle


def _narrowed(values: Any, scalar: Any) -> Any:
    """float32 values as bfloat16 or float8, rounded to nearest, ties to even, as the device does."""
    wide = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    if scalar == tl.bfloat16:
        return Handle(wide.bfloat16().view(torch.int16).numpy().view(np.uint16), scalar)
    return Handle(wide.to(_FLOAT8[scalar]).view(torch.uint8).numpy(), scalar)


_dot, _cast = Builder.create_dot, Builder.cast_impl


def _exact_cast(self: Any, source: Any, target: Any) -> Any:
    if source.dtype.scalar == target.scalar:
        return source
    wide = _widened(source)
    if target.scalar == tl.bfloat16 or target.scalar in _FLOAT8:
        return _narrowed(wide.data, target.scalar)
    if target.scalar == tl.float32 and wide is not source:
        return wide
    return _cast(self, wide, target)


def _exact_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
    return _dot(self, _widened(a), _widened(b), *rest)


Builder.create_dot, Builder.cast_impl = _exact_dot, _exact_cast
Builder.create_fp_to_fp = lambda self, source, target, rounding: _exact_cast(self, source, target)
for _name in ("si_to_fp", "ui_to_fp", "fp_to_si", "fp_to_ui", "fp_ext", "fp_trunc"):
    setattr(Builder, f"create_{_name}", _exact_cast)
Builder.create_int_cast = lambda self, source, target, signed: _exact_cast(self, source, target)


def _run_ptx(
    self: Any, text: str, constraints: str, values: Any, types: Any, pure: bool, pack: int
) -> Any:
    """What the interpreter refuses: instructions written out, `pack` elements at a time in registers of 32 bits."""
    shape = values[0].data.shape
    words = [np.ascontiguousarray(value.data).reshape(-1, pack).view(np.uint32) for value in values]
    inputs = [word[:, i] for word in words for i in range(word.shape[1])]
    outputs = iter(run(text, constraints.count("=r"), inputs))
    registers = [pack * kind.scalar.primitive_bitwidth // 32 for kind in types]
    packed = [np.stack([next(outputs) for _ in range(count)], 1) for count in registers]
    found = [
        Handle(word.view(f"u{kind.scalar.primitive_bitwidth // 8}").reshape(shape), kind.scalar)
        for word, kind in zip(packed, types, strict=True)
    ]
    return SimpleNamespace(get_result=found.__getitem__)


Builder.create_inline_asm = _run_ptx

# Here a launch is over when the next begins.
tl.extra.cuda.gdc_wait = tl.extra.cuda.gdc_launch_dependents = lambda: None

_patch_tensor = interpreter._patch_lang_tensor


def _patch_tensor_and_index(tensor: Any, scope: Any) -> None:
    _patch_tensor(tensor, scope)
    scope.set_attr(
        tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])
    )


interpreter._patch_lang_tensor = _patch_tensor_and_index


class _Kept:
    """A patch that stays."""

    def restore(self) -> None:
        pass


_patch_language = interpreter._patch_lang
_patched: set[int] = set()


def _patch_once(function: Any) -> _Kept:
    """The interpreter patches the language at each call of a jitted function: most of its time. Once will do."""
    if id(function.__globals__) not in _patched:
        _patch_language(function)
        _patched.add(id(function.__globals__))
    return _Kept()


interpreter._patch_lang = _patch_once


# What is the same for equal types and shapes is worked out once ------------------------------------------------------

_DTYPES: dict[str, Any] = {}
_BLOCKS: dict[tuple[Any, ...], dict[str, Any]] = {}
_SHAPES: dict[tuple[int, ...], tuple[Any, Any]] = {}

_np_dtype, _make_block, _make_tensor = (
    interpreter._get_np_dtype, tl.block_type.__init__, tl.tensor.__init__
)  # fmt: skip


def _np_dtype_once(kind: Any) -> Any:
    name = kind.scalar.name
    if name not in _DTYPES:
        _DTYPES[name] = _np_dtype(kind)
    return _DTYPES[name]


def _ints(shape: Any) -> tuple[int, ...]:
    return tuple(size if type(size) is int else size.value for size in shape)


def _make_block_once(self: Any, element_ty: Any, shape: Any) -> None:
    key = element_ty.name, _ints(shape)
    if key not in _BLOCKS:
        _make_block(self, element_ty, shape)
        _BLOCKS[key] = self.__dict__
    self.__dict__ = _BLOCKS[key]


def _make_tensor_once(self: Any, handle: Any, type: Any) -> None:
    shape = _ints(type.shape) if type.is_block() else ()
    if shape not in _SHAPES:
        _make_tensor(self, handle, type)
        _SHAPES[shape] = self.shape, self.numel
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _SHAPES[shape]


interpreter._get_np_dtype = _np_dtype_once
tl.block_type.__init__, tl.tensor.__init__ = _make_block_once, _make_tensor_once
