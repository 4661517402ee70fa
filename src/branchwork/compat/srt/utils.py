"""As `sglang.srt.utils`."""

import os
import signal
from contextlib import suppress


def kill_process_tree(parent_pid: int) -> None:
    """End a server that was started here; what it started ends with it."""
    with suppress(ProcessLookupError):
        os.kill(parent_pid, signal.SIGTERM)
