"""As `sglang.srt.utils`."""

import os
import signal
from contextlib import suppress

from branchwork.compat.utils import download_and_cache_file


def is_hip() -> bool:
    """Whether the tests run on one maker's GPUs: no."""
    return False


def is_cuda() -> bool:
    """Whether the tests run on another's: no."""
    return False


def load_image(image_file: str | bytes) -> tuple[bytes, None]:
    """The bytes of an image given as bytes, by path or by address; SGLang's size beside it is not told."""
    if isinstance(image_file, bytes):
        return image_file, None
    is_address = image_file.startswith(("http://", "https://"))
    with open(download_and_cache_file(image_file) if is_address else image_file, "rb") as image:
        return image.read(), None


def kill_process_tree(parent_pid: int) -> None:
    """End a server that was started here; what it started ends with it."""
    with suppress(ProcessLookupError):
        os.kill(parent_pid, signal.SIGTERM)
