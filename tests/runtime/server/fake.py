"""A backend that answers instructions from a script: bytes are its tokens, and it runs on a thread of its own."""

import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from branchwork.runtime.wire.backend import Listener
from branchwork.runtime.wire.errors import RuntimeDied
from branchwork.runtime.wire.messages import (
    Abort,
    BranchId,
    Chat,
    ChatFormat,
    ChoiceScore,
    Close,
    Closed,
    Done,
    Embed,
    Failed,
    Gen,
    Instruction,
    Open,
    Run,
    Select,
    Text,
    TokenLogprob,
    Tokens,
    Usage,
    Welcome,
)

WELCOME = Welcome(
    version=1,
    runtime_version="0.1.0",
    model="fake",
    model_checksum="0",
    context_len=4096,
    vocab_size=256,
    eos_token_ids=(0,),
    chat_format=ChatFormat({}, {}),
    limits={},
    heartbeat_s=2.0,
    pid=0,
)
TREE_NODE = {"parent": None, "space": 0, "tokens": 2, "end": 2, "head": [104, 105]}
TEMPLATE = "{% for m in messages %}…{% endfor %}<tool_call>"


@dataclass
class Script:
    """What one Gen answers. `hold` waits before the end until the branch is aborted or the backend released."""

    pieces: Sequence[bytes] = (b"hello", b" world")
    reason: str = "stop"
    matched: str | int | None = None
    failure: tuple[str, str, str | None] | None = None
    hold: bool = False
    jumped: bool = False
    warnings: tuple[str, ...] = ()


@dataclass
class FakeBackend:
    """`script(prompt, gen)` decides each answer; `frames` holds everything that was sent."""

    script: Callable[[str, Gen], Script] = lambda prompt, gen: Script()
    welcome: Welcome = WELCOME
    frames: list[Sequence[Instruction]] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    aborted: set[BranchId] = field(default_factory=set)
    template: str = TEMPLATE
    alive: bool = True
    steps: int = 0
    last_seen: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._next = 0
        self._listeners: dict[BranchId, Listener] = {}
        self._texts: dict[BranchId, str] = {}
        self._held: dict[BranchId, Gen] = {}
        self._released = False
        self._queue: queue.SimpleQueue[Sequence[Instruction] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def new_branch(self, listener: Listener) -> BranchId:
        with self._lock:
            self._next += 1
            self._listeners[self._next] = listener
            return self._next

    def send(self, instructions: Sequence[Instruction]) -> None:
        if not self.alive:
            raise RuntimeDied("the runtime is gone")
        self.frames.append(tuple(instructions))
        self._queue.put(instructions)

    def wait(self, ready: Callable[[], bool], timeout_s: float | None = None) -> bool:
        raise NotImplementedError

    def deliver_in_background(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(60)

    def release(self) -> None:
        """Let every held answer end, and hold no more."""
        with self._lock:
            self._released = True
            held, self._held = self._held, {}
        for branch, gen in held.items():
            self._tell(branch, self._done(gen, self.script(self._texts[branch], gen)))
            self._tell(branch, Closed(branch))

    def die(self) -> None:
        """End as a killed runtime does: every open branch hears of it."""
        self.alive = False
        for listener in list(self._listeners.values()):
            listener(RuntimeDied("the runtime was killed"))
        self._listeners.clear()

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        ask = json.loads(body)
        self.asked.append((what, ask))
        if what == "tokenizer_info":
            info = {"bos_token": None, "eos_token": "<eos>", "pad_token": None}
            return json.dumps({**info, "chat_template": self.template, "add_bos_token": False})
        if what == "render":
            return json.dumps({"text": _rendered(ask["messages"])})
        if what == "tokenize":
            text = ask["text"] if "text" in ask else _rendered(ask["messages"])
            return json.dumps({"token_ids": list(text.encode())})
        if what == "detokenize":
            return json.dumps({"text": bytes(ask["token_ids"]).decode(errors="replace")})
        if what == "detokenize_each":
            return json.dumps({"texts": [bytes(each).decode() for each in ask["groups"]]})
        if what == "stats":
            return json.dumps({"slots_total": 100, "slots_free": 90, "running": 0, "waiting": 0})
        if what == "inspect":
            return json.dumps(
                {"requests": [], "tree": {"nodes": [TREE_NODE], "adapters": [0], "tokens": 2}}
            )
        return json.dumps({"flushed": 3})

    def _work(self) -> None:
        while (frame := self._queue.get()) is not None:
            for instruction in frame:
                self._take(instruction)

    def _take(self, instruction: Instruction) -> None:
        branch = instruction.branch
        match instruction:
            case Open(parent=parent):
                self._texts[branch] = self._texts[parent] if parent is not None else ""
            case Text(text=text, token_ids=ids):
                self._texts[branch] += text + bytes(ids).decode(errors="replace")
            case Chat(messages=messages):
                self._texts[branch] += _rendered(
                    [{"role": m.role, "content": m.content} for m in messages]
                )
            case Gen():
                self._generate(instruction, self.script(self._texts[branch], instruction))
            case Select(choices=choices, slot=slot):
                logprob = TokenLogprob(0, b"a", -1.0)
                scores = tuple(
                    ChoiceScore(text, -float(i), -float(i), (logprob,))
                    for i, text in enumerate(choices)
                )
                usage = Usage(prompt=len(self._texts[branch]))
                self._tell(branch, Done(branch, slot, "selected", choices[0], usage, scores=scores))
            case Embed(slot=slot):
                usage = Usage(prompt=len(self._texts[branch]))
                vector = (0.6, 0.8) if len(self._texts[branch]) % 2 else (1.0, 0.0)
                self._tell(branch, Done(branch, slot, "embedded", "", usage, embedding=vector))
            case Close():
                if branch not in self._held:
                    self._tell(branch, Closed(branch))
            case Abort():
                self.aborted.add(branch)
                self._held.pop(branch, None)
                self._tell(branch, Closed(branch))

    def _generate(self, gen: Gen, script: Script) -> None:
        if script.failure is not None:
            self._tell(gen.branch, Failed(gen.branch, gen.slot, *script.failure))
            return
        pieces = script.pieces if gen.stream else (b"".join(script.pieces),)
        for piece in pieces:
            kind = "jumped" if script.jumped else "sampled"
            logprobs = ()
            if gen.logprobs is not None:
                logprobs = tuple(_logprob(byte, gen.logprobs) for byte in piece)
            run = Run(kind, tuple(piece))
            self._tell(gen.branch, Tokens(gen.branch, gen.slot, piece, (run,), logprobs))
        with self._lock:
            if script.hold and not self._released:
                self._held[gen.branch] = gen
                return
        self._tell(gen.branch, self._done(gen, script))

    def _done(self, gen: Gen, script: Script) -> Done:
        answer, prompt = b"".join(script.pieces), self._texts[gen.branch].encode()
        size = len(answer)
        usage = Usage(
            prompt=len(prompt),
            cached=len(prompt) // 2,
            completion=size,
            sampled=0 if script.jumped else size,
            jumped=size if script.jumped else 0,
        )
        before: tuple[TokenLogprob, ...] = ()
        if gen.prompt_logprobs_from is not None:
            first = TokenLogprob(prompt[0], prompt[:1], None)
            before = (first, *(_logprob(byte, gen.logprobs or 0) for byte in prompt[1:]))
        return Done(
            gen.branch,
            gen.slot,
            script.reason,
            answer.decode(errors="replace"),
            usage,
            script.matched,
            prompt_logprobs=before,
            warnings=script.warnings,
        )

    def _tell(self, branch: BranchId, event: Tokens | Done | Failed | Closed) -> None:
        listener = self._listeners.get(branch)
        if isinstance(event, Closed):
            self._listeners.pop(branch, None)
        if listener is not None:
            listener(event)


def _logprob(byte: int, k: int) -> TokenLogprob:
    top = tuple((t, bytes([t]), -0.5 - i) for i, t in enumerate((byte, (byte + 1) % 128)[:k]))
    return TokenLogprob(byte, bytes([byte]), -0.5, top)


def _rendered(messages: Sequence[dict[str, str]]) -> str:
    return "".join(f"<{m['role']}>{m['content']}\n" for m in messages) + "<assistant>"
