"""`python -m tests.runtime.models.interpreted NAME …`: programs of the device's runner in triton's interpreter.

In a process of its own, since an access out of bounds kills it; see `device_programs.main`.
"""

# ruff: noqa: I001
import tests.kernels.interpreter  # noqa: F401  before any kernel is imported

import sys
import warnings
from dataclasses import replace

from tests.runtime.models.device_programs import main

from branchwork.kernels.configs import CASCADE, DECODE, EXTEND

if __name__ == "__main__":
    # What a device does in silence: log2 of 0 is -inf, and unused lanes may hold anything.
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    for configs in (
        DECODE,
        CASCADE,
        EXTEND,
    ):  # small, so that few tokens are several blocks and splits
        configs[16] = replace(
            configs[16], block_rows=16, block_keys=16, split_keys=32, max_splits=4, few_tokens=4
        )
    main(sys.argv[1:], compiled=True)
