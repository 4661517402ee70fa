import os
import subprocess
import sys


def test_the_machine_runs_without_the_compiler() -> None:
    """Plain Python does what the compiled functions do (numba is optional for correctness, not for speed)."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", "from branchwork.runtime.grammar.warm import warm; warm()"]
    subprocess.run(command, env=environment, check=True, timeout=100)
