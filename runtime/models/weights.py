"""The tensors of a model folder: *.safetensors, one file or sharded, read through a memory map.

Nothing in a folder is ever executed or unpickled: a folder that has only *.bin or *.pt weights is refused.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from branchwork.runtime.wire.errors import ModelError

_MAX_JSON_BYTES = 64 << 20
_SAMPLED_BYTES = 1 << 16
_SAMPLES = 8


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelError."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"it has more than {_MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} of {path.parent} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} of {path.parent} must be a JSON object")
    return value


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder, by its index where there is one. Raises ModelError."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        names = {str(name) for name in shards.values()} if isinstance(shards, dict) else set()
        paths = tuple(folder / name for name in sorted(names))
        # A name that leads out of the folder would read what the index has no business with.
        bad = [path.name for path in paths if path.parent != folder or not path.is_file()]
        if bad or not paths:
            raise ModelError(
                f"{index.name} of {folder} names a missing file: {(bad or ['none'])[0]}"
            )
        return paths
    paths = tuple(sorted(folder.glob("*.safetensors")))
    if paths:
        return paths
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise ModelError(
            f"{folder} has its weights as pickle files, which could run code; convert them to safetensors"
        )
    raise ModelError(f"{folder} has no *.safetensors weights")


class TensorFile:
    """The tensors of one safetensors file by name. A context manager: the file closes with it. Raises ModelError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        try:
            self._file: Any = self._stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is not a safetensors file: {error}") from error
        self.names: tuple[str, ...] = tuple(self._file.keys())

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name, held to its shape and to a float type. Raises ModelError."""
        tensor: Tensor = self._file.get_tensor(name)
        if tuple(tensor.shape) != shape:
            found = f"must have shape {list(shape)}, found {list(tensor.shape)}"
        elif not tensor.is_floating_point():
            found = f"must be of a float type, found {tensor.dtype}"
        else:
            return tensor
        raise ModelError(f"{self._path.parent}: {name} {found}")


class Weights:
    """The tensors of a folder by name; each may be taken once. A context manager: the files close with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._files: dict[str, TensorFile] = {}
        for path in weight_files(folder):
            try:
                file = self._stack.enter_context(TensorFile(path))
            except ModelError:
                self._stack.close()
                raise
            self._files.update(dict.fromkeys(file.names, file))

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name, held to its shape. Raises ModelError."""
        file = self._files.pop(name, None)
        if file is None:
            raise ModelError(f"{self._folder} has no tensor {name}")
        return file.read(name, *shape)

    def left_over(self) -> Iterator[str]:
        """Names that were never taken."""
        return iter(self._files)


def content_digest(folder: Path) -> str:
    """The same of every byte: 64 hex digits, at a second a gigabyte."""
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=32)
    for path in weight_files(folder):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()


def checksum(folder: Path) -> str:
    """An identity of config and weights: 32 hex digits.

    blake2b over names, sizes, config.json, every file's header and eight samples of its content, so that it
    costs milliseconds; it tells models apart, and does not prove that a file is untouched.
    """
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(header, size)))
            for i in range(_SAMPLES):
                file.seek(8 + header + (size - 8 - header) * i // _SAMPLES)
                digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()
