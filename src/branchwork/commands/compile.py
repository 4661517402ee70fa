"""`branchwork compile`: make the machine code ahead of the first start."""

import argparse
import subprocess
import sys

# Each in a process of its own: so they share the cores, and what one needs the other need not import.
MODULES = ("branchwork.kernels.cpu.compiling", "branchwork.runtime.grammar.machine_code")


def main(argv: list[str]) -> int:
    """Compile what numba compiles, kept on disk; a first start without it does the same while it already answers."""
    argparse.ArgumentParser(prog="branchwork compile", description=__doc__).parse_args(argv)
    running = [subprocess.Popen([sys.executable, "-m", module]) for module in MODULES]
    return max(process.wait() for process in running)
