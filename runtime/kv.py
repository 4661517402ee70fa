"""K/V outside of the pool as plain values: what is copied out of slots, kept in a store, and copied back.

A *tier* lies below the pool. The engine decides what goes down and what comes back (`runtime.engine.tier`), the runner
copies (`KvMemory`), and a store keeps (`Store`): files (`runtime.store.disk`), or the host's memory for a device's
pool (`runtime.store.host`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]

KvArrays = Mapping[str, npt.NDArray[Any]]
"""The K/V of some tokens by name, bit for bit, on the host. The second axis counts tokens; all else is the runner's."""

BLOCK_TOKENS = 128
"""A prefix is stored in pieces of this many tokens, from position 0 on; what is left at its end is not stored.

Small enough that little is computed again, large enough that a file is worth opening (400 KiB for the embedded model).
"""


KvShapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""The dtype (as numpy writes it, without byte order) and shape of each of the arrays."""


def num_bytes(shapes: KvShapes) -> int:
    """What arrays of these shapes take."""
    return sum(int(dtype[1:]) * math.prod(shape) for dtype, shape in shapes.values())


class KvMemory(Protocol):
    """What can copy K/V out of its slots and into them."""

    def read_kv(self, slots: Ints) -> KvArrays:
        """A copy of what lies in `slots`, in their order."""
        ...

    def write_kv(self, slots: Ints, kv: KvArrays) -> None:
        """Put what `read_kv` gave into other slots; of a runner of the same model, bit for bit the same."""
        ...

    def kv_shapes(self, num_tokens: int) -> KvShapes:
        """Of what `read_kv` gives for so many tokens."""
        ...


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block that a store held when it was opened. `prefix` None: not ours to use, but it takes its bytes."""

    key: str
    prefix: Ints | None
    size: int
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A block to be loaded: the K/V of the last tokens of `prefix`, computed with an adapter (`Segment.adapter`)."""

    key: str
    prefix: Ints
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A store's answer to `load`: the K/V of the leading blocks that could be read. `lost`: keys it has no more."""

    number: int
    blocks: tuple[KvArrays, ...]
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unsaved:
    """A block that a store took and could not keep."""

    key: str


StoreReport = Loaded | Unsaved


class Store(Protocol):
    """Keeps blocks under their keys. No call waits for a disk; `Loaded` and `Unsaved` come through `start`'s `report`.

    `max_bytes` is what it may take; the engine keeps to it by `remove`. A block is of `block_tokens`. `outlives`: it is
    there for the next runtime, too.
    """

    max_bytes: int
    block_tokens: int
    outlives: bool

    def identity(self, adapter: int) -> str:
        """Which K/V that is: of which model, with what in its adapter of this number, computed by which code."""
        ...

    def start(self, report: Callable[[Sequence[StoreReport]], None]) -> list[StoredBlock]:
        """Begin; returns what it holds, least recently used first."""
        ...

    @property
    def state(self) -> Literal["open", "busy", "broken"]:
        """Whether it takes a block now; busy: soon again; broken: not for a while."""
        ...

    def save(self, block: Wanted, kv: KvArrays) -> None:
        """Keep a block."""
        ...

    def load(self, number: int, blocks: Sequence[Wanted]) -> None:
        """Read blocks; answered by one `Loaded` with this number."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Forget blocks."""
        ...

    def used(self, keys: Sequence[str]) -> None:
        """Note that blocks were used, for whoever opens the store next."""
        ...

    def close(self, timeout_s: float) -> None:
        """Finish what waits, for so long at most."""
        ...
