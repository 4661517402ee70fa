"""`python -m tests.kernels.interpreted PREFIX …`: the cases so named, in triton's interpreter, in this process.

An access out of bounds kills the process, so pytest runs this one beside itself. A line of JSON for each case.
"""

# ruff: noqa: I001
import tests.kernels.interpreter  # noqa: F401  before any kernel is imported

import json
import sys
import time
import warnings

from tests.kernels.cases import CASES, compare, widened
from tests.kernels.forms import REFERENCE, TRITON


def main(prefixes: list[str]) -> None:
    # What a device does in silence: log2 of 0 is -inf, and unused lanes may hold anything.
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    for case in CASES:
        if not str(case).startswith(tuple(prefixes)):
            continue
        found = case.make()
        expected = widened(case.make())
        print(json.dumps({"starts": str(case)}), flush=True)
        began = time.process_time()
        TRITON[case.operation](**found)
        REFERENCE[case.operation](**expected)
        seconds = round(time.process_time() - began, 1)
        wrong = compare(case, found, expected)
        print(json.dumps({"case": str(case), "wrong": wrong, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
