"""Compile what the launchers launch, for devices that are not there, and read the resources it takes.

A launch is recorded, not written down a second time: the launcher runs on tensors without memory ("meta"), and the
call that would reach the device is turned into what triton's own JIT would compile, its specialisations included.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from branchwork.kernels.configs import MAX_SHARED_BYTES
from branchwork.kernels.triton import early

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ARCHS = (80, 90, 100)

OPTIONS = ("num_warps", "num_stages", "launch_pdl")
"""Arguments of a launch that are not the kernel's."""

_TYPES = {
    torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64",
    torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.float8_e4m3fn: "fp8e4nv",
}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """One call of a kernel, as triton compiles it."""

    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[str, Any]
    attributes: dict[tuple[int], list[list[Any]]]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def key(self) -> str:
        """Its name, and that of an argument without which it is another kernel."""
        argument = _WITH.get(self.name)
        given = argument is not None and argument not in self.constants
        return f"{self.name} with {argument}" if given else self.name


_WITH = {"rms_norm_kernel": "residual", "candidates_kernel": "list_weight"}


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes; `instructions` counts the ones a budget may ask for."""

    arch: int
    registers: int
    stack: int
    shared: int
    threads: int
    instructions: dict[str, int]
    waits_first: bool
    """For the launch before it: no global memory is touched until then."""

    @property
    def blocks_at_once(self) -> int:
        """Blocks of threads that a multiprocessor holds: it has 64 Ki registers and 2,048 threads."""
        by_registers = 65_536 // (-(-self.registers // 8) * 8 * self.threads)
        by_shared = MAX_SHARED_BYTES[self.arch] // (self.shared + 1024)
        return min(by_registers, by_shared, 2048 // self.threads, 32)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Within it, launches are noted and nothing runs."""
    launches: list[Launch] = []
    run = JITFunction.run

    def note(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launches.append(_launch(self, args, kwargs))

    JITFunction.run = note
    try:
        yield launches
    finally:
        JITFunction.run = run


def _launch(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Launch:
    options = {name: value for name, value in kwargs.items() if name in OPTIONS}
    values = dict(zip(kernel.arg_names, args, strict=False))
    values |= {name: value for name, value in kwargs.items() if name not in options}
    assert list(values) == list(kernel.arg_names), (kernel.__name__, list(values))
    signature, constants, attributes = {}, {}, {}
    for i, (name, value) in enumerate(values.items()):
        if kernel.params[i].is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + _TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return Launch(kernel, signature, constants, attributes, options)


def compile_for(launch: Launch, arch: int) -> Resources:
    """Machine code by the ptxas of the triton wheel. Raises what triton raises where it cannot be made."""
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        sass = _cuobjdump("--dump-sass", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return Resources(
        arch=arch,
        registers=int(found[1]),
        stack=int(found[2]),
        shared=compiled.metadata.shared,
        threads=compiled.metadata.num_warps * 32,
        instructions={
            "HGMMA": len(re.findall(r"\bHGMMA\b", sass)),
            "HMMA": len(re.findall(r"\bHMMA\b", sass)),
            "16-byte loads": len(re.findall(r"\bLDG(?:STS)?\.E\S*\.?128", sass)),
            "spills": len(re.findall(r"\b(?:LDL|STL)\b", sass)),
            "fences": len(re.findall(r"\bMEMBAR\b", sass)),
        },
        waits_first=re.search(_WAIT_OR_ACCESS, sass)[0] == "ACQBULK",
    )


_WAIT_OR_ACCESS = r"\b(?:ACQBULK|LDG|LDGSTS|STG|ATOMG?|REDG?|UTMALDG|UBLKCP)\b"


def _cuobjdump(what: str, path: str) -> str:
    command = [str(TOOLS / "cuobjdump"), what, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def launches_of(work: Callable[[int], None], arch: int) -> list[Launch]:
    """What `work` launches on a device of a compute capability, in order."""
    with recorded() as launches, patch.object(early, "capability_of", lambda device: arch):
        work(arch)
    return launches
