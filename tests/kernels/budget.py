"""`python -m tests.kernels.budget [LAUNCH …]`: compile launches for every device into kernels/budget.json.

The table is committed: a change of a kernel that costs registers, spills or loses an instruction shows in its diff.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kernels.ahead import ARCHS, Launch, Resources, compile_for, launches_of
from tests.kernels.launches import LAUNCHES

PATH = Path(__file__).parents[2] / "kernels" / "budget.json"

NEEDS: dict[str, Callable[[int], list[str]]] = {
    "decode_kernel": lambda arch: ["16-byte loads", "fences"],
    "cascade_kernel": lambda arch: ["HGMMA"] if arch == 90 else ["16-byte loads"],
    "extend_kernel": lambda arch: ["HGMMA"] if arch == 90 else ["16-byte loads"],
    "scan_kernel": lambda arch: ["16-byte loads"],
    "int4_linear_kernel": lambda arch: ["16-byte loads"],
    "int8_linear_kernel": lambda arch: ["16-byte loads"],
    "expert_linear_kernel": lambda arch: ["16-byte loads"],
    "shrink_kernel": lambda arch: ["16-byte loads"],
    "expand_kernel": lambda arch: ["16-byte loads"],
    "widen_kernel": lambda arch: ["16-byte loads"],
}
"""The instructions without which a kernel is on a slow path, or wrong: warpgroup products on sm_90, wide loads; fences
where programs wait for each other's stores."""

CANNOT = {(name, "sm_80"): "float8 e4m3 needs sm_89" for name in LAUNCHES if "fp8" in name}
"""Launches that a device has no instructions for."""


def budget_of(launch: Launch, arch: int, found: Resources) -> dict[str, Any]:
    """A launch's line in the table."""
    return {
        "registers": found.registers,
        "shared": found.shared,
        "blocks_at_once": found.blocks_at_once,
        "needs": NEEDS.get(launch.name, lambda arch: [])(arch),
    }


def main(names: list[str]) -> None:
    """Measure the launches of these names, or all; lines of others stay, in the order of the launches."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    kept = json.loads(PATH.read_text()) if names else {}
    for name, work in LAUNCHES.items():
        if names and name not in names:
            table[name] = kept[name]
            continue
        for arch in ARCHS:
            for launch in launches_of(work, arch):
                if (name, f"sm_{arch}") in CANNOT:
                    continue
                line = budget_of(launch, arch, compile_for(launch, arch))
                print(name, launch.key, arch, line, flush=True)
                table.setdefault(name, {}).setdefault(launch.key, {})[f"sm_{arch}"] = line
    PATH.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
