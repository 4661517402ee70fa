"""Which backend a program runs against when it is told none: the one that was set, or the embedded runtime."""

import json
from collections.abc import Callable, Sequence
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from branchwork.lang.chat_template import ChatTemplate
from branchwork.runtime.wire.backend import Backend, Listener
from branchwork.runtime.wire.errors import ProgramError
from branchwork.runtime.wire.messages import BranchId, Instruction, Welcome

if TYPE_CHECKING:
    from branchwork.runtime.wire.launcher import RunningRuntime


class GlobalConfig:
    """What holds for all programs of this process.

    `default_backend` is what `set_default_backend` has set, or `embedded`: the runtime that the first program without
    a backend has started.

    >>> bw.global_config.default_backend.welcome.model
    'scripted'
    """

    def __init__(self) -> None:
        self.default_backend: Backend | None = None
        self.embedded: Runtime | None = None
        self.lock = Lock()


global_config = GlobalConfig()


class Runtime:
    """A runtime process of its own, and the backend that talks to it.

    Options are those of `branchwork serve` (`Runtime(model="…", max_len=4096)`). As a context manager it is the
    default backend inside the block, and the process ends with the block.

    >>> with bw.Runtime(max_len=1024) as runtime:
    ...     bw.get_server_info()["context_len"]
    1024
    """

    def __init__(
        self, model: str | None = None, *, model_path: str | None = None, **options: Any
    ) -> None:
        # pyzmq is 25 ms to import; a program that runs against an API does not need it.
        from branchwork.runtime.wire.launcher import launch  # noqa: PLC0415

        options = _translated(options)
        chosen = model or model_path
        if chosen is not None:
            options["model"] = chosen
        self.chat_template: ChatTemplate | None = None
        self._process: RunningRuntime = launch(**options)
        try:
            self._client: Backend = self._process.connect()
        except BaseException:
            self._process.close(0.0)
            raise
        self._outer: Backend | None = None

    @property
    def address(self) -> str:
        """Where `connect` finds this runtime."""
        return self._process.address

    @property
    def pid(self) -> int:
        """The process id of the runtime."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.alive

    @property
    def endpoint(self) -> Self:
        """The runtime itself, where SGLang's programs ask a Runtime for what it talks to."""
        return self

    def get_model_name(self) -> str:
        """The model, as it was named when the runtime was started."""
        return self._process.config.model

    @property
    def welcome(self) -> Welcome:
        """Who answers, and within which limits; `chat_template`, where it is set, goes before the model's own."""
        welcome = self._client.welcome
        if self.chat_template is None:
            return welcome
        return msgspec.structs.replace(welcome, chat_format=self.chat_template.chat_format())

    def new_branch(self, listener: Listener) -> BranchId:
        """As `Backend.new_branch`."""
        return self._client.new_branch(listener)

    def send(self, instructions: Sequence[Instruction]) -> None:
        """As `Backend.send`."""
        self._client.send(instructions)

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """As `Backend.wait`."""
        return self._client.wait(ready, timeout_s)

    def deliver_in_background(self) -> None:
        """As `Backend.deliver_in_background`."""
        self._client.deliver_in_background()

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        """As `Backend.request`."""
        return self._client.request(what, body, timeout_s)

    def close(self) -> None:
        """End the process and wait for it."""
        if global_config.default_backend is self:
            global_config.default_backend = self._outer
        self._client.close()
        self._process.close()

    shutdown = close

    def __enter__(self) -> Self:
        self._outer = global_config.default_backend
        global_config.default_backend = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


# SGLang's options that have another name here, and those that have no counterpart: they tune what is not there.
_RENAMED = {
    "lora_paths": "adapters",
    "context_length": "max_len",
    "max_total_tokens": "kv_slots",
    "max_running_requests": "max_rows",
}
_WITHOUT_EFFECT = (
    *("tp_size", "port", "host", "mem_fraction_static", "trust_remote_code", "random_seed"),
    *("disable_cuda_graph", "cuda_graph_max_bs", "attention_backend", "sampling_backend"),
    *("chunked_prefill_size", "modeling", "torchao_config", "tokenizer_path", "log_requests"),
    *("disable_overlap_schedule", "skip_tokenizer_init", "tokenizer_mode", "served_model_name"),
    *("enable_metrics", "schedule_policy", "page_size", "watchdog_timeout", "launch_timeout"),
    *("enable_torch_compile", "base_gpu_id", "log_level_http"),
)


def _translated(options: dict[str, Any]) -> dict[str, Any]:
    """Options of SGLang's Runtime under this runtime's names; those without effect here are left out."""
    known = {
        _RENAMED.get(name, name): value
        for name, value in options.items()
        if name not in _WITHOUT_EFFECT
    }
    if known.pop("disable_radix_cache", False):
        known["prefix_cache"] = False
    return known


def connect(address: str, *, key_file: str = "") -> Backend:
    """Join a runtime that runs, and make it the default backend. Raises RuntimeUnreachable, VersionMismatch.

    >>> with bw.Runtime() as runtime:
    ...     bw.connect(runtime.address).welcome.pid == runtime.pid
    True
    """
    # pyzmq is 25 ms to import; a program that runs against an API does not need it.
    from branchwork.runtime.wire.client import connect as connect_client  # noqa: PLC0415

    client = connect_client(address, key_file=key_file)
    set_default_backend(client)
    return client


def set_default_backend(backend: Backend | None) -> None:
    """What programs run against when they are told nothing else; None: the embedded runtime.

    >>> bw.set_default_backend(Scripted({"city": " Rome"}))
    >>> capital.run(country="Italy")["city"]
    ' Rome'
    """
    global_config.default_backend = backend


def default_backend() -> Backend:
    """The backend that was set; without one the embedded runtime, which is started when there is none that lives."""
    with global_config.lock:
        backend, embedded = global_config.default_backend, global_config.embedded
        has_died = embedded is not None and backend is embedded and not embedded.alive
        if backend is not None and not has_died:
            return backend
        started = Runtime()
        global_config.default_backend = global_config.embedded = started
        return started


def resolve(backend: Any) -> Backend:
    """The backend to use for what the caller gave: None is the default; what wraps one holds it in `endpoint`."""
    if backend is None:
        return default_backend()
    chosen = getattr(backend, "endpoint", backend)
    if not hasattr(chosen, "new_branch"):
        raise ProgramError(
            f"backend must be a Runtime, connect(…) or an API, not {type(backend).__name__}"
        )
    return chosen  # type: ignore[no-any-return]


def flush_cache(backend: Backend | None = None) -> bool:
    """Drop every cached prefix that no running program uses; False when there is no backend to ask.

    >>> bw.flush_cache()
    True
    """
    chosen = backend or global_config.default_backend
    if chosen is None:
        return False
    resolve(chosen).request("flush_cache")
    return True


def get_server_info(backend: Backend | None = None) -> dict[str, Any] | None:
    """The runtime's numbers, and who it is; None when there is no backend to ask.

    >>> bw.get_server_info()["model"]
    'scripted'
    """
    chosen = backend or global_config.default_backend
    if chosen is None:
        return None
    asked = resolve(chosen)
    welcome = asked.welcome
    numbers: dict[str, Any] = json.loads(asked.request("stats"))
    return {
        "model": welcome.model,
        "context_len": welcome.context_len,
        "pid": welcome.pid,
        **numbers,
    }
