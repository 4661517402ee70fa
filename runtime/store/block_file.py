"""One block of K/V as bytes: a safetensors file with a checksum over all that it says.

    tokens   int32 [end]    all tokens up to the block's end, so that it is known by more than its name
    …        the arrays of the runner, for the last BLOCK_TOKENS of these

Metadata: `format`, `identity` (of model and code, see `runtime.models.identity`), `checksum` (blake2b of format,
identity, and each array's name, dtype, shape and bytes).
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from branchwork.runtime.kv import BLOCK_TOKENS, Ints, KvArrays, KvShapes

FORMAT = "branchwork-kv-1"
TOKENS = "tokens"
MAX_HEADER_BYTES = 1 << 16
MAX_OFFSET = 1 << 40


class BadBlock(Exception):
    """A file is not the block that it should be; `foreign`: it may well be one of another model."""

    def __init__(self, message: str, foreign: bool = False) -> None:
        super().__init__(message)
        self.foreign = foreign


def encode(identity: str, prefix: Ints, kv: KvArrays) -> bytes:
    """The file of a block."""
    arrays = {TOKENS: prefix, **{name: np.ascontiguousarray(kv[name]) for name in kv}}
    metadata = {
        "format": FORMAT,
        "identity": identity,
        "checksum": _checksum(identity, arrays),
    }
    data: bytes = save(arrays, metadata)
    return data


def decode(data: bytes, identity: str, prefix: Ints, shapes: KvShapes) -> KvArrays:
    """The K/V in a file, held to who computed it, for which tokens, in which shapes, and to its checksum.

    Raises BadBlock.
    """
    metadata, _ = _header(data)
    _origin(metadata, (identity,))
    try:
        arrays: dict[str, npt.NDArray[Any]] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadBlock(f"not a safetensors file: {error}") from error
    if metadata.get("checksum") != _checksum(identity, arrays):
        raise BadBlock("its checksum is wrong")
    tokens = arrays.pop(TOKENS, None)
    if tokens is None or tokens.dtype != np.int32 or not np.array_equal(tokens, prefix):
        raise BadBlock("it is of other tokens")
    found = {name: (array.dtype.str.lstrip("<|"), array.shape) for name, array in arrays.items()}
    if found != dict(shapes):
        raise BadBlock("its arrays are of other shapes")
    return arrays


def read_prefix(file: BinaryIO, identities: Sequence[str], max_tokens: int) -> tuple[int, Ints]:
    """Of a block, of whose file little more is read: which identity it has, and its tokens.

    Not held to the checksum yet. Raises BadBlock.
    """
    head = file.read(8)
    head += file.read(min(int.from_bytes(head, "little"), MAX_HEADER_BYTES))
    metadata, entries = _header(head)
    origin = _origin(metadata, identities)
    try:
        entry = entries[TOKENS]
        first, last = entry["data_offsets"]
        (num_tokens,) = entry["shape"]
        is_right = (
            entry["dtype"] == "I32"
            and all(type(number) is int for number in (first, last, num_tokens))
            and 0 <= first <= MAX_OFFSET
            and 0 < num_tokens <= max_tokens
            and num_tokens % BLOCK_TOKENS == 0
            and last - first == 4 * num_tokens
        )
    except (TypeError, ValueError, KeyError) as error:
        raise BadBlock("its header is not that of a block") from error
    data = b""
    if is_right:
        file.seek(len(head) + first)
        data = file.read(4 * num_tokens)
    if not is_right or len(data) != 4 * num_tokens:
        raise BadBlock("its tokens are not where they should be")
    tokens: Ints = np.frombuffer(data, np.int32)
    return origin, tokens


def _header(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and entries. Raises BadBlock."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 + length or not 2 <= length <= MAX_HEADER_BYTES:
        raise BadBlock("it is cut off, or no safetensors file")
    try:
        entries = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise BadBlock("its header is not JSON") from error
    metadata = entries.get("__metadata__") if isinstance(entries, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise BadBlock("it is no block of K/V, or of another version", foreign=True)
    return metadata, entries


def _origin(metadata: dict[str, Any], identities: Sequence[str]) -> int:
    """The position of the identity that a file says it has. Raises BadBlock."""
    identity = metadata.get("identity")
    if identity not in identities:
        raise BadBlock("it is of another model, adapter, type or version", foreign=True)
    return identities.index(identity)


def _checksum(identity: str, arrays: KvArrays) -> str:
    digest = hashlib.blake2b(f"{FORMAT} {identity}".encode(), digest_size=32)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f" {name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
