"""What decides the last bits of a result beside its inputs."""

import llvmlite.binding
import numba
import torch

from branchwork.kernels.cpu.cached import sources_digest
from branchwork.kernels.cpu.tile import products_used


def code_identity() -> str:
    """Sources, compilers, and the processor they compile for: where these are equal, so is every bit."""
    host = f"{llvmlite.binding.get_host_cpu_name()} {llvmlite.binding.get_host_cpu_features().flatten()}"
    compilers = f"numba {numba.__version__} torch {torch.__version__}"
    return f"{sources_digest()} {compilers} on {host}, products by {products_used()}"
