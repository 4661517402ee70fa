"""A store in the host's memory, for the pool of a device: every answer is there at once."""

from collections.abc import Callable, Sequence
from typing import Literal

from branchwork.runtime.kv import BLOCK_TOKENS, KvArrays, Loaded, StoredBlock, StoreReport, Wanted


class HostStore:
    """As `runtime.kv.Store`; it ends with the process."""

    outlives = False

    def __init__(self, max_bytes: int, block_tokens: int = BLOCK_TOKENS) -> None:
        self.max_bytes = max_bytes
        self.block_tokens = block_tokens
        self._kept: dict[str, KvArrays] = {}
        self._report: Callable[[Sequence[StoreReport]], None] = lambda reports: None

    def identity(self, adapter: int) -> str:
        """As `Store.identity`; it need not outlive the numbers of the adapters."""
        return f"host {adapter}"

    @property
    def state(self) -> Literal["open", "busy", "broken"]:
        """As `Store.state`."""
        return "open"

    def start(self, report: Callable[[Sequence[StoreReport]], None]) -> list[StoredBlock]:
        """As `Store.start`."""
        self._report = report
        return []

    def save(self, block: Wanted, kv: KvArrays) -> None:
        """As `Store.save`."""
        self._kept[block.key] = kv

    def load(self, number: int, blocks: Sequence[Wanted]) -> None:
        """As `Store.load`."""
        self._report([Loaded(number, tuple([self._kept[block.key] for block in blocks]))])

    def remove(self, keys: Sequence[str]) -> None:
        """As `Store.remove`."""
        for key in keys:
            del self._kept[key]

    def used(self, keys: Sequence[str]) -> None:
        """As `Store.used`."""

    def close(self, timeout_s: float) -> None:
        """As `Store.close`."""
