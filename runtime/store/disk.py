"""A store in a folder: one file a block, written and read by a thread of its own.

The folder is this user's alone (0700) and used by one runtime at a time (a lock, which ends with the process). Files
come into being by renaming, so a reader sees whole ones; a checksum finds those that are whole and wrong. Nothing that
the folder holds is trusted: what is not a block of ours, of this model and these tokens, is ignored with one warning.
Only files named like blocks are ever removed.
"""

import contextlib
import fcntl
import logging
import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from branchwork.runtime.kv import (
    BLOCK_TOKENS,
    KvArrays,
    KvShapes,
    Loaded,
    StoredBlock,
    StoreReport,
    Unsaved,
    Wanted,
    num_bytes,
)
from branchwork.runtime.store.block_file import (
    MAX_HEADER_BYTES,
    BadBlock,
    decode,
    encode,
    read_prefix,
)
from branchwork.runtime.wire.errors import ConfigError

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
_BLOCK = re.compile(r"[0-9a-f]{32}\.safetensors")
_LEFT_OVER = re.compile(r"[0-9a-f]{32}\.tmp")

# So much K/V may wait to be written; what leaves the pool meanwhile is not stored.
MAX_WAITING_BYTES = 64 << 20

# So long is waited for the lock.
LOCK_S = 3.0

# A disk that cannot be written to is tried again after so long.
PAUSE_S = 60.0


class DiskStore:
    """As `runtime.kv.Store`. `max_len` is the longest prefix; `shapes` those of a block's arrays.

    `identities` are of the model's K/V as it is, and with each of its adapters, by number.

    Raises ConfigError where the folder cannot be had.
    """

    outlives = True
    block_tokens = BLOCK_TOKENS

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        identities: Sequence[str],
        shapes: KvShapes,
        max_len: int,
    ) -> None:
        self._identities = tuple(identities)
        self.max_bytes = max_bytes
        self._folder = _open_folder(folder)
        self._name = folder
        self._shapes = shapes
        self._max_len = max_len
        self._report: Callable[[Sequence[StoreReport]], None] = lambda reports: None
        self._changed = threading.Condition()
        self._loads: deque[tuple[int, Sequence[Wanted]]] = deque()
        self._saves: dict[str, tuple[Wanted, KvArrays]] = {}
        self._waiting_bytes = 0
        self._removals: deque[str] = deque()
        self._used: deque[str] = deque()
        self._closing_s: float | None = None
        self._paused_until_s = 0.0
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="kv-store", daemon=True)

    # ------------------------------------------------------------------ for the engine's thread

    def identity(self, adapter: int) -> str:
        """As `Store.identity`."""
        return self._identities[adapter]

    def start(self, report: Callable[[Sequence[StoreReport]], None]) -> list[StoredBlock]:
        """As `Store.start`."""
        self._report = report
        found = self._scan()
        self._thread.start()
        return found

    @property
    def state(self) -> Literal["open", "busy", "broken"]:
        """As `Store.state`."""
        if time.monotonic() < self._paused_until_s:
            return "broken"
        return "busy" if self._waiting_bytes > MAX_WAITING_BYTES else "open"

    def save(self, block: Wanted, kv: KvArrays) -> None:
        """As `Store.save`."""
        with self._changed:
            self._saves[block.key] = block, kv
            self._waiting_bytes += _size(kv)
            self._changed.notify()

    def load(self, number: int, blocks: Sequence[Wanted]) -> None:
        """As `Store.load`."""
        with self._changed:
            self._loads.append((number, blocks))
            self._changed.notify()

    def remove(self, keys: Sequence[str]) -> None:
        """As `Store.remove`."""
        if keys:
            with self._changed:
                for key in keys:
                    self._unwait(key)
                self._removals.extend(keys)
                self._changed.notify()

    def used(self, keys: Sequence[str]) -> None:
        """As `Store.used`."""
        with self._changed:
            self._used.extend(keys)
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """As `Store.close`."""
        with self._changed:
            self._closing_s = time.monotonic() + timeout_s
            self._changed.notify()
        if self._thread.ident is not None:
            # One file may still be under way then; it is written as a whole or not at all.
            self._thread.join(timeout_s + 1.0)
        if not self._thread.is_alive():
            os.close(self._folder)

    def _unwait(self, key: str) -> None:
        waiting = self._saves.pop(key, None)
        if waiting is not None:
            self._waiting_bytes -= _size(waiting[1])

    # ------------------------------------------------------------------ the thread of its own

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._loads or self._removals or self._saves or self._used):
                    if self._closing_s is not None:
                        return
                    self._changed.wait()
                if self._closing_s is not None and time.monotonic() > self._closing_s:
                    return
                job = self._next_job()
            job()

    def _next_job(self) -> Callable[[], None]:
        """Loads first, since somebody waits for them."""
        if self._loads:
            number, blocks = self._loads.popleft()
            # What is not written yet need not be read.
            waiting = {one.key: self._saves[one.key][1] for one in blocks if one.key in self._saves}
            return lambda: self._report([self._load(number, blocks, waiting)])
        if self._removals:
            key = self._removals.popleft()
            return lambda: self._unlink(key + SUFFIX)
        if self._saves:
            key = next(iter(self._saves))
            block, kv = self._saves[key]
            self._unwait(key)
            return lambda: self._save(block, kv)
        key = self._used.popleft()
        return lambda: self._touch(key)

    def _save(self, block: Wanted, kv: KvArrays) -> None:
        """Write a file under another name, and rename it when it is whole."""
        draft, name = block.key + ".tmp", block.key + SUFFIX
        try:
            self._write(draft, encode(self.identity(block.adapter), block.prefix, kv))
            os.rename(draft, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except Exception as error:
            if not isinstance(error, IsADirectoryError):  # somebody's folder has taken the name
                self._warn("write", "cannot be written to; it is left alone for a while", error)
                self._paused_until_s = time.monotonic() + PAUSE_S
            self._unlink(draft)
            self._report([Unsaved(block.key)])

    def _write(self, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=self._folder), "wb") as file:
            file.write(data)

    def _load(self, number: int, blocks: Sequence[Wanted], waiting: dict[str, KvArrays]) -> Loaded:
        """Read blocks up to the first that cannot be."""
        loaded: list[KvArrays] = []
        lost: tuple[str, ...] = ()
        for block in blocks:
            kv = waiting.get(block.key)
            if kv is None:
                try:
                    with self._open(block.key + SUFFIX) as file:
                        data = file.read()
                    identity = self.identity(block.adapter)
                    kv = decode(data, identity, block.prefix, self._shapes)
                except Exception as error:
                    if not isinstance(error, FileNotFoundError):
                        self._warn("read", f"{block.key} is ignored and removed", error)
                    self._unlink(block.key + SUFFIX)
                    lost = (block.key,)
                    break
            loaded.append(kv)
        return Loaded(number, tuple(loaded), lost)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        """A file to be read. Raises OSError, and BadBlock where it is no plain file of a block's size."""
        # O_NONBLOCK: a pipe of that name has no writer to wait for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(name, flags, dir_fd=self._folder), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_size > self._max_file_bytes:
                raise BadBlock("it is no plain file of a block's size")
            yield file

    @property
    def _max_file_bytes(self) -> int:
        return num_bytes(self._shapes) + 4 * self._max_len + MAX_HEADER_BYTES + 8

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._folder)
        except (FileNotFoundError, IsADirectoryError):
            return  # a folder of that name is not ours to remove
        except OSError as error:
            self._warn("remove", f"{name} cannot be removed", error)

    def _touch(self, key: str) -> None:
        """Use is kept as the file's date: who opens the store next reads it there."""
        with contextlib.suppress(OSError):
            os.utime(key + SUFFIX, dir_fd=self._folder, follow_symlinks=False)

    # ------------------------------------------------------------------ opening

    def _scan(self) -> list[StoredBlock]:
        """What is there, oldest use first. A file that is not ours to read takes its room and is never found."""
        found: list[tuple[float, StoredBlock]] = []
        num_foreign, bad = 0, []
        for name in os.listdir(self._folder):
            if _LEFT_OVER.fullmatch(name):
                self._unlink(name)
            if not _BLOCK.fullmatch(name):
                continue
            adapter, prefix = 0, None
            try:
                about = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
                with self._open(name) as file:
                    adapter, prefix = read_prefix(file, self._identities, self._max_len)
            except FileNotFoundError:
                continue  # somebody tidies up
            except (BadBlock, OSError) as error:
                is_foreign = isinstance(error, BadBlock) and error.foreign
                num_foreign += is_foreign
                bad += [] if is_foreign else [name]
            if stat.S_ISREG(about.st_mode):
                block = StoredBlock(name.removesuffix(SUFFIX), prefix, about.st_size, adapter)
                found.append((about.st_mtime, block))
        if num_foreign or bad:
            log.warning(
                "--kv-store %s: ignored are %d blocks of other models or versions and %d unreadable ones%s",
                self._name, num_foreign, len(bad), f" ({bad[0]})" if bad else "",
            )  # fmt: skip
        found.sort(key=lambda dated: dated[0])
        return [block for _, block in found]

    def _warn(self, kind: str, what: str, error: Exception) -> None:
        """Say it once for each kind of trouble."""
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("--kv-store %s: %s (%s)", self._name, what, error)


def _open_folder(folder: Path) -> int:
    """The folder, made if need be, locked for this process. Raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"--kv-store {folder}: {error.strerror}") from error
    about = os.fstat(fd)
    problem = ""
    if about.st_uid != os.geteuid():
        problem = "belongs to another user"
    elif about.st_mode & 0o077:
        problem = f"others may look into it (mode {about.st_mode & 0o777:o}): chmod 700 {folder}"
    elif not _lock(fd):
        problem = "another runtime uses it"
    if problem:
        os.close(fd)
        raise ConfigError(f"--kv-store {folder}: {problem}")
    return fd


def _lock(fd: int) -> bool:
    """Whether the folder is ours; a runtime that this one replaces may need a moment to end."""
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _size(kv: KvArrays) -> int:
    return sum(array.nbytes for array in kv.values())
