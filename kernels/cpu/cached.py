"""Compiled code kept on disk, so that only the first start after an installation compiles.

numba keeps a function's code beside its source (or in the user's cache folder, where that is read-only) and
trusts it while that one file is unchanged. Our entry points are built from several files: here the code is
trusted while none of them has changed.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from numba import njit
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

Function = TypeVar("Function", bound=Callable[..., Any])


@cache
def sources_digest() -> str:
    """An identity of this package's sources."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _PackageCache(FunctionCache):
    """numba's cache of one function, stamped with all sources of this package instead of one file's date."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = sources_digest()


def cache_folder() -> Path:
    """Where compiled code is kept."""
    return Path(_PackageCache(cache_folder).cache_path)


def entry_point(function: Function) -> Function:
    """A kernel that Python calls: compiled or loaded on first call, and run without the GIL."""
    dispatcher = njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = _PackageCache(function)
    compiled: Function = dispatcher
    return compiled


def c_function_address(signature: Any, function: Callable[..., Any]) -> int:
    """Compile or load a C function; it lives as long as the process."""
    compiled = CFunc(function, (signature.args, signature.return_type), {}, {})
    compiled._cache = _PackageCache(function)
    compiled.compile()
    _alive.append(compiled)
    address: int = compiled.address
    return address


_alive: list[CFunc] = []
