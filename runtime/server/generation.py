"""From the fields of a request to what the runtime is asked: prompts, how to sample, and how many answers each.

All bounds that are options of the server are held here, once for all routes.
"""

import hashlib
import secrets
from dataclasses import dataclass

import msgspec

from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.constraints import Reading
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import Generating, Sampled
from branchwork.runtime.wire.messages import (
    BranchId,
    Chat,
    Close,
    Constraint,
    Embed,
    Gen,
    Instruction,
    Open,
    Sampling,
    Select,
    Text,
)

SLOT = "answer"

_SALT_KEY = secrets.token_bytes(16)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What stands before an answer. The instructions carry branch 0 until they are sent."""

    parts: tuple[Text | Chat, ...]

    @staticmethod
    def of_text(text: str) -> "Prompt":
        """A prompt in words; no special token is read in it."""
        return Prompt((Text(0, text),))

    @staticmethod
    def of_ids(token_ids: tuple[int, ...]) -> "Prompt":
        """A prompt in tokens."""
        return Prompt((Text(0, token_ids=token_ids),))


@dataclass(frozen=True, slots=True)
class Generation:
    """One prompt and `n` answers to it, which share its tokens as branches of one parent.

    `field` is the field of the request by which the answer is constrained; errors name it.
    """

    prompt: Prompt
    ask: Gen | Select | Embed
    n: int = 1
    salt: str = ""
    priority: int = 0
    field: str | None = None
    pin_s: float = 0.0
    adapter: str = ""

    def instructions(self, branches: list[BranchId], parent: BranchId) -> list[Instruction]:
        """One frame: for one answer a single branch, for more a parent and its forks."""
        root = branches[0] if self.n == 1 else parent
        frame: list[Instruction] = [
            Open(
                root,
                salt=self.salt,
                priority=self.priority,
                program=parent,
                pin_s=self.pin_s,
                adapter=self.adapter,
            )
        ]
        frame += [msgspec.structs.replace(part, branch=root) for part in self.prompt.parts]
        for position, branch in enumerate(branches):
            if self.n > 1:
                frame.append(
                    Open(branch, root, self.salt, self.priority, program=parent, pin_s=self.pin_s)
                )
            ask = _own_seed(self.ask, position)
            frame += (msgspec.structs.replace(ask, branch=branch), Close(branch))
        if self.n > 1:
            frame.append(Close(root))
        return frame


def _own_seed(ask: Gen | Select | Embed, position: int) -> Gen | Select | Embed:
    """The answers to one prompt differ although the request has one seed."""
    if not isinstance(ask, Gen) or ask.sampling.seed is None or position == 0:
        return ask
    seed = (ask.sampling.seed + position) % 2**63
    return msgspec.structs.replace(ask, sampling=msgspec.structs.replace(ask.sampling, seed=seed))


class Limits:
    """The server's bounds on one request."""

    def __init__(self, config: ServerConfig, vocab_size: int) -> None:
        self.config = config
        self.vocab_size = vocab_size

    def sampling(self, fields: Sampled, max_tokens: int | None) -> Sampling:
        """How to choose tokens. Raises ApiError naming the field that is out of bounds."""
        defaults = Sampling()
        min_tokens = fields.min_tokens or 0
        if max_tokens is not None and min_tokens > max_tokens:
            raise ApiError(
                f"min_tokens ({min_tokens}) must not exceed max_tokens ({max_tokens})",
                param="min_tokens",
            )
        greedy = fields.temperature == 0 or fields.top_p == 0
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            temperature=0.0 if greedy else _or(fields.temperature, defaults.temperature),
            top_p=fields.top_p or defaults.top_p,
            top_k=max(fields.top_k or 0, 0),
            min_p=fields.min_p or 0.0,
            frequency_penalty=fields.frequency_penalty or 0.0,
            presence_penalty=fields.presence_penalty or 0.0,
            repetition_penalty=fields.repetition_penalty or defaults.repetition_penalty,
            seed=None if fields.seed is None else fields.seed % 2**63,
            stop=self._stops(fields.stop, "stop"),
            stop_token_ids=self.token_ids(fields.stop_token_ids or [], "stop_token_ids"),
            stop_regex=self._stops(fields.stop_regex, "stop_regex"),
            include_stop=bool(fields.include_stop_str_in_output),
            ignore_eos=bool(fields.ignore_eos),
            logit_bias=self._bias(fields.logit_bias or {}),
        )

    def gen(
        self,
        fields: Generating,
        max_tokens: int | None,
        constraint: Constraint | None,
        logprobs: int | None,
        stream: bool,
    ) -> Gen:
        """The instruction for one answer, on branch 0."""
        if fields.chat_template is not None:
            raise ApiError(
                "chat_template is refused: the model's own template is used", param="chat_template"
            )
        return Gen(
            branch=0,
            slot=SLOT,
            sampling=self.sampling(fields, max_tokens),
            constraint=constraint,
            logprobs=logprobs,
            stream=stream,
            jump_forward=fields.jump_forward is not False,
            length_safe=fields.length_safe is not False,
            deadline_s=self.config.request_timeout,
        )

    def reading(self, fields: Generating) -> Reading:
        """The reader of the request's constraint."""
        return Reading(
            self.config.max_schema_bytes, bool(fields.any_whitespace), bool(fields.any_order)
        )

    def answers(self, wanted: int | None, name: str = "n") -> int:
        """How many answers to one prompt."""
        return self.at_most(wanted or 1, self.config.max_n, name, "--max-n")

    def logprobs(self, wanted: int, name: str) -> int:
        """How many most likely tokens beside each."""
        return self.at_most(wanted, self.config.max_logprobs, name, "--max-logprobs")

    def at_most(self, value: int, bound: int, name: str, flag: str) -> int:
        """`value`, if the server takes as much."""
        if value > bound:
            raise ApiError(
                f"{name} is {value}, the server takes at most {bound} ({flag})", param=name
            )
        return value

    def token_ids(self, token_ids: list[int], name: str) -> tuple[int, ...]:
        """Ids that are all in the vocabulary."""
        if token_ids and not (min(token_ids) >= 0 and max(token_ids) < self.vocab_size):
            raise ApiError(
                f"{name} holds an id outside the vocabulary (0 to {self.vocab_size - 1})",
                param=name,
            )
        return tuple(token_ids)

    def _stops(self, stops: str | list[str] | None, name: str) -> tuple[str, ...]:
        found = (stops,) if isinstance(stops, str) else tuple(stops or ())
        self.at_most(len(found), self.config.max_stops, name, "--max-stops")
        for stop in found:
            if not stop:
                raise ApiError(f"{name} must not hold an empty text", param=name)
            if len(stop.encode()) > self.config.max_stop_bytes:
                raise ApiError(
                    f"{name} holds a text of more than {self.config.max_stop_bytes} bytes "
                    "(--max-stop-bytes)",
                    param=name,
                )
        return found

    def _bias(self, bias: dict[str, float]) -> tuple[tuple[int, float], ...]:
        self.at_most(len(bias), self.config.max_logit_bias, "logit_bias", "--max-logit-bias")
        found = []
        for key, value in bias.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ApiError("logit_bias: each key must be a token id", param="logit_bias")
            found.append((self.token_ids([int(key)], "logit_bias")[0], value))
        return tuple(found)


def cache_salt(salt: str | None) -> str:
    """The salt under which a caller's prefixes are cached: never the caller's own words."""
    if not salt:
        return ""
    return hashlib.blake2b(salt.encode(), key=_SALT_KEY, digest_size=16).hexdigest()


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
