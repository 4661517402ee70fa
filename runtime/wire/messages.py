"""What crosses the socket: the instructions of a program, and the events that answer them.

Everything that reaches the runtime (a decorated program, an HTTP chat completion, `n=8`, a `select`) is
the same few instructions on a *branch*: a sequence of tokens with a queue of instructions behind it.
`Gen` and `Select` name a *slot* and end in exactly one `Done` or `Failed`; `Close` and `Abort` end in
exactly one `Closed`. The instructions of one branch take effect in the order in which they were sent.

A frame is a msgpack array of messages (docs/architecture.md#wire), so that a whole program is one frame.
Structs are tagged and array-like: fields are found by position, and new ones are added at the end with a default.
"""

from typing import Literal

import msgspec

PROTOCOL_VERSION = 1

BranchId = int
"""Chosen by the client, unique for the life of its connection."""


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything that crosses the socket."""


# ------------------------------------------------------------------ constraints


class Regex(Message, frozen=True, tag="regex"):
    """The whole answer matches `pattern` (Python's dialect, anchored at both ends)."""

    pattern: str


class Choices(Message, frozen=True, tag="choices"):
    """The whole answer is one of `values`."""

    values: tuple[str, ...]


class JsonSchema(Message, frozen=True, tag="json_schema"):
    """The answer is one JSON value that is valid under `schema` (JSON text, draft 2020-12 and draft 7).

    `order`: keys come in the order in which the schema declares them (more is forced), or in any order.
    """

    schema: str
    mode: Literal["strict", "best_effort"] = "strict"
    whitespace: Literal["fixed", "any"] = "fixed"
    order: Literal["declared", "any"] = "declared"


class JsonValue(Message, frozen=True, tag="json_value"):
    """The answer is any JSON value, or any JSON object."""

    kind: Literal["value", "object"] = "object"
    whitespace: Literal["fixed", "any"] = "fixed"


class Ebnf(Message, frozen=True, tag="ebnf"):
    """The answer is a sentence of a grammar in the dialect of GBNF (`name ::= …`) or of Lark (`name: …`).

    `root` is its start symbol; empty: the dialect's usual one, "root" or "start".
    """

    text: str
    root: str = ""


class Tag(Message, frozen=True, tag="tag"):
    """One constrained part of a text: it begins with `begin`, holds `content`, and ends with `end`."""

    begin: str
    content: "Constraint"
    end: str


class StructuralTags(Message, frozen=True, tag="structural_tags"):
    """Free text in which each of `triggers` begins one of `tags`, which is then held to its content.

    `at_least_one` forbids to stop before a tag; `stop_after_first` ends the answer with the first tag's end;
    `only_tags` forbids free text around tags (a required tool call is this).
    """

    tags: tuple[Tag, ...]
    triggers: tuple[str, ...]
    at_least_one: bool = False
    stop_after_first: bool = False
    only_tags: bool = False


class Concat(Message, frozen=True, tag="concat"):
    """Parts one after another; each is a constraint or a literal text ("think, then answer in JSON")."""

    parts: tuple["Constraint | str", ...]


class FreeText(Message, frozen=True, tag="free_text"):
    """Any text that does not contain `until`; inside `Concat` the next part follows it."""

    until: tuple[str, ...] = ()


class AnyOf(Message, frozen=True, tag="any_of"):
    """The answer meets one of `options`."""

    options: tuple["Constraint", ...]


Constraint = (
    Regex | Choices | JsonSchema | JsonValue | Ebnf | StructuralTags | Concat | FreeText | AnyOf
)


# ------------------------------------------------------------------ instructions


class Sampling(Message, frozen=True):
    """How tokens are chosen and when a slot ends. Bounds: `runtime.wire.validate`.

    `seed` None means a fresh one; equal seeds give equal text in any batch. `stop` ends are not part of the text.
    `top_k` 0 and `max_tokens` None mean no bound but the context. Penalties as OpenAI defines them;
    `repetition_penalty` as in CTRL (Keskar et al. 2019, section 4.1).
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    stop_regex: tuple[str, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()


class Open(Message, frozen=True, tag="open"):
    """A new branch: empty, or sharing all that `parent` holds once its earlier instructions are done.

    `salt` separates caches: branches of different salts share nothing. `program` groups branches for fair
    scheduling. `keep` asks the cache to hold the branch's prefix, softly, until it is closed; `pin_s` seconds longer.
    `adapter` names the low-rank adapter that the branch is computed with, one of `Welcome.adapters` ("": none). A fork
    has its parent's salt and adapter, and names no adapter itself.
    """

    branch: BranchId
    parent: BranchId | None = None
    salt: str = ""
    priority: int = 0
    program: int = 0
    keep: bool = True
    pin_s: float = 0.0
    adapter: str = ""


class Text(Message, frozen=True, tag="text"):
    """Append text, or token ids as they are.

    `special` says whether special tokens written in the text are read as such; a user's words never are.
    Neighbouring texts of a branch are joined before they are tokenised.
    """

    branch: BranchId
    text: str = ""
    token_ids: tuple[int, ...] = ()
    special: bool = False


class ChatMessage(Message, frozen=True):
    """One message of a chat, already in plain values; `extra` is JSON text of further template variables."""

    role: str
    content: str
    extra: str = "{}"


class Chat(Message, frozen=True, tag="chat"):
    """Append a whole chat, rendered by the model's own template in the runtime.

    `tools` and `options` are JSON text ("[]" and "{}" when absent). Special tokens inside a content stay text.
    """

    branch: BranchId
    messages: tuple[ChatMessage, ...]
    tools: str = "[]"
    options: str = "{}"
    add_generation_prompt: bool = True


class Gen(Message, frozen=True, tag="gen"):
    """Generate into `slot`.

    `logprobs` None: none; k ≥ 0: of every output token, with the k most likely beside it.
    `prompt_logprobs_from`: logprobs of the branch's own tokens from that position on (computed again, not cached).
    `heal`: take the last token back and let the answer choose across the boundary (its bytes stay a constraint).
    `stream` False sends the text in one piece at the end; `jump_forward` False samples forced bytes one by one.
    `deadline_s` counts from arrival. `length_safe` keeps enough of `max_tokens` to close the constraint.
    """

    branch: BranchId
    slot: str
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    logprobs: int | None = None
    prompt_logprobs_from: int | None = None
    heal: bool = False
    stream: bool = False
    jump_forward: bool = True
    length_safe: bool = True
    deadline_s: float | None = None


class Select(Message, frozen=True, tag="select"):
    """Score all `choices` over the shared prefix in one batch; append the best and answer with every score.

    `method` as SGLang names them; "none" appends nothing (the caller decides from the scores).
    """

    branch: BranchId
    slot: str
    choices: tuple[str, ...]
    method: Literal[
        "token_length_normalized",
        "greedy_token_selection",
        "unconditional_likelihood_normalized",
        "none",
    ] = "token_length_normalized"
    deadline_s: float | None = None


class Embed(Message, frozen=True, tag="embed"):
    """The branch's hidden states after the last layer, pooled and of unit length, in the slot's `Done`."""

    branch: BranchId
    slot: str
    pooling: Literal["mean", "last"] = "mean"


class Close(Message, frozen=True, tag="close"):
    """Nothing more will follow on this branch; it goes when its queue is done."""

    branch: BranchId


class Abort(Message, frozen=True, tag="abort"):
    """Stop now: open slots end in `Failed` (code "aborted") and the memory is free at once."""

    branch: BranchId


Instruction = Open | Text | Chat | Gen | Select | Embed | Close | Abort


# ------------------------------------------------------------------ control, client to runtime


class Hello(Message, frozen=True, tag="hello"):
    """First message of a client; answered by `Welcome`, or by `Refused` and silence."""

    version: int = PROTOCOL_VERSION
    name: str = ""


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """Sent by both sides when they have been silent; carries the sender's step counter (0 from a client)."""

    steps: int = 0


class Request(Message, frozen=True, tag="request"):
    """Ask for something beside the branches; answered by exactly one `Reply` with the same number.

    `what`: "stats", "inspect", "flush_cache" (with a "salt", of that salt), "save_cache", "tokenize", "detokenize",
    "render", "shutdown"; `body` is JSON text.
    """

    number: int
    what: str
    body: str = "{}"


ClientMessage = Instruction | Hello | Heartbeat | Request


# ------------------------------------------------------------------ events, runtime to client


class ChatFormat(Message, frozen=True):
    """The text around a message of each role, as the model's template writes it."""

    begin: dict[str, str]
    end: dict[str, str]
    prefix: str = ""
    default_system: str = ""


class Welcome(Message, frozen=True, tag="welcome"):
    """Who answers, with which adapters, and within which limits. `limits` are named as in `RuntimeConfig`."""

    version: int
    runtime_version: str
    model: str
    model_checksum: str
    context_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    chat_format: ChatFormat
    limits: dict[str, int]
    heartbeat_s: float
    pid: int
    adapters: tuple[str, ...] = ()


class Refused(Message, frozen=True, tag="refused"):
    """The connection is not taken; `code` as in `runtime.wire.errors`."""

    code: str
    message: str


class TokenLogprob(Message, frozen=True):
    """One token's log-probability (nats, of the model's own distribution at temperature 1)."""

    token_id: int
    data: bytes
    logprob: float | None
    top: tuple[tuple[int, bytes, float], ...] = ()


class Run(Message, frozen=True):
    """A run of tokens that came about in one way: "sampled", "jumped" or "speculated"."""

    kind: Literal["sampled", "jumped", "speculated"]
    token_ids: tuple[int, ...]


class Tokens(Message, frozen=True, tag="tokens"):
    """More of a slot's answer. `data` is bytes: a character may be cut, so decode incrementally.

    `data` never holds a byte that a stop string could still take back; `runs` name every token so far unsent,
    so their bytes may run ahead of `data`.
    """

    branch: BranchId
    slot: str
    data: bytes
    runs: tuple[Run, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Usage(Message, frozen=True):
    """What a slot cost, in tokens and milliseconds.

    `prompt` = tokens of the branch before the slot = `cached` + those computed for it; `completion` = `sampled`
    + `jumped` + `speculated`. Times are of the runtime's clock: waiting, then until the first token, then in all.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    sampled: int = 0
    jumped: int = 0
    speculated: int = 0
    steps: int = 0
    queue_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0


class ChoiceScore(Message, frozen=True):
    """How one choice of a `Select` scored; `logprobs` are of its tokens, `score` is the method's figure."""

    text: str
    score: float
    logprob: float
    logprobs: tuple[TokenLogprob, ...]
    unconditional: tuple[TokenLogprob, ...] = ()


class Done(Message, frozen=True, tag="done"):
    """A slot's one good end.

    `reason`: "stop" (end of sequence, or a complete constraint), "stop_string" (`matched` is the text or pattern),
    "stop_token" (`matched` is the id), "length", "selected". `text` is the whole answer, also when it was streamed.
    `warnings` say what a best-effort constraint does not enforce.
    """

    branch: BranchId
    slot: str
    reason: Literal["stop", "stop_string", "stop_token", "length", "selected", "embedded"]
    text: str
    usage: Usage
    matched: str | int | None = None
    scores: tuple[ChoiceScore, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    warnings: tuple[str, ...] = ()
    embedding: tuple[float, ...] = ()


class Failed(Message, frozen=True, tag="failed"):
    """A slot's one bad end; later slots of the branch fail too (code "branch_failed")."""

    branch: BranchId
    slot: str
    code: str
    message: str
    param: str | None = None


class Closed(Message, frozen=True, tag="closed"):
    """The branch is gone: the one answer to `Close` or `Abort`."""

    branch: BranchId


class Reply(Message, frozen=True, tag="reply"):
    """The one answer to a `Request`; `error` is a code, and then `body` is the sentence."""

    number: int
    body: str
    error: str | None = None


SlotEvent = Tokens | Done | Failed
Event = Tokens | Done | Failed | Closed
RuntimeMessage = Event | Welcome | Refused | Heartbeat | Reply
