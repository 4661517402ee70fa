"""Compiled code kept on disk, so that only the first start after an installation compiles.

numba keeps a function's code beside its source (or in the user's cache folder, where that is read-only) and
trusts it while that one file is unchanged. Ours is built from several files of a folder: here it is trusted while
none of them has changed. Code for another processor lies beside it under a key of its own.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm
from numba import njit, typeof
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

Function = TypeVar("Function", bound=Callable[..., Any])


@cache
def sources_digest(folder: Path = Path(__file__).parent) -> str:
    """An identity of the sources in a folder (this one)."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def machine_digest() -> str:
    """An identity of the instructions that code is compiled for."""
    known = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return hashlib.blake2b(known.encode(), digest_size=8).hexdigest()


class _FolderCache(FunctionCache):
    """numba's cache of one function, stamped with all sources of its folder instead of one file's date."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        folder = Path(function.__code__.co_filename).parent
        self._cache_file._source_stamp = sources_digest(folder)


def cache_folder() -> Path:
    """Where compiled code is kept."""
    return Path(_FolderCache(cache_folder).cache_path)


def entry_point(function: Function) -> Function:
    """A function that Python calls: compiled or loaded on first call, and run without the GIL."""
    return _cached(function, counts_references=True)


def borrowing_entry_point(function: Function) -> Function:
    """As `entry_point`, for code that makes and returns no arrays: it borrows its caller's, and counts no references.

    The counts are atomic, one up and one down for each slice and each address: more than half of the time of attention.
    """
    return _cached(function, counts_references=False)


def _cached(function: Function, counts_references: bool) -> Function:
    dispatcher = njit(nogil=True, error_model="numpy", _nrt=counts_references)(function)
    dispatcher._cache = _FolderCache(function)
    compiled: Function = dispatcher
    return compiled


def compiled_for(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """An entry point's code for arguments of these types, which must be those of every call.

    To find it out at each call takes 60 µs where a hundred arrays are handed over, and twice that from cold caches.
    """
    dispatcher: Any = function
    signature = tuple(map(typeof, arguments))
    dispatcher.compile(signature)
    compiled: Callable[..., Any] = dispatcher.get_overload(signature)
    return compiled


def c_function_address(signature: Any, function: Callable[..., Any]) -> int:
    """Compile or load a C function; it lives as long as the process."""
    compiled = CFunc(function, (signature.args, signature.return_type), {}, {})
    compiled._cache = _FolderCache(function)
    compiled.compile()
    _alive.append(compiled)
    address: int = compiled.address
    return address


_alive: list[CFunc] = []
