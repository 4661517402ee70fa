"""What the gateway knows of the model behind it: names, size, and how it writes tool calls and thoughts."""

import time
from dataclasses import dataclass, field, replace
from typing import Any

from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.reasoning import BEGIN
from branchwork.runtime.server.tools import FORMATS, ToolFormat, format_of
from branchwork.runtime.wire.config import RuntimeConfig, model_names
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.messages import Welcome
from branchwork.runtime.wire.validate import MAX_NAMES_SAID


@dataclass(frozen=True, slots=True)
class Model:
    """One model, as its runtime announced it. `names` are what clients may call it; the first is shown.

    With an `adapter` it is that one's, under its name; `parent` is then the name of the model itself.
    """

    names: tuple[str, ...]
    welcome: Welcome
    tool_format: ToolFormat | None = None
    thinks: bool = False
    thought_begun: bool = False
    tokenizer: dict[str, Any] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))
    adapter: str = ""
    parent: str | None = None

    @property
    def name(self) -> str:
        """What answers call the model."""
        return self.names[0]

    def called(self, name: str | None) -> "Model":
        """The model that a request names: this one, or this one with an adapter. Raises ApiError (404)."""
        if name is None or name in self.names:
            return self
        if name in self.welcome.adapters:
            return replace(self, names=(name,), adapter=name, parent=self.name)
        here = (self.name, *self.welcome.adapters)
        more = ", …" if len(here) > MAX_NAMES_SAID else ""
        raise ApiError(
            f"the model {name[:128]!r} does not exist; this server has {', '.join(here[:MAX_NAMES_SAID])}{more}",
            status=404,
            param="model",
            code="model_not_found",
        )

    def card(self, name: str) -> dict[str, Any]:
        """OpenAI's description of the model under one of its names; `parent` as vLLM has it."""
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "branchwork",
            "parent": self.parent,
            "max_model_len": self.welcome.context_len,
        }


def served_names(config: ServerConfig) -> tuple[str, ...]:
    """The names of the model that the options give it."""
    return tuple(name.strip() for name in config.served_model_name.split(",") if name.strip())


def check_names(config: ServerConfig, runtime: RuntimeConfig) -> None:
    """Raises ConfigError where a request could not say whether it means the model or an adapter."""
    for name, _ in runtime.adapters:
        if name in served_names(config):
            raise ConfigError(f"--served-model-name {name}: an adapter has this name")


def describe(
    config: ServerConfig, welcome: Welcome, tokenizer: dict[str, Any], rendered: str
) -> Model:
    """The model of a runtime.

    `tokenizer` is the runtime's "tokenizer_info"; `rendered` is a short chat as the template writes it, by which is
    seen whether the template itself opens the thought.
    """
    template = tokenizer.get("chat_template") or ""
    wanted = config.tool_format
    form = format_of(template) if wanted == "auto" else FORMATS.get(wanted)
    begun = rendered.rstrip().endswith(BEGIN)
    thinks = config.reasoning_format == "think"
    if config.reasoning_format == "auto":
        thinks = begun or "</think>" in template
    names = served_names(config) or model_names(welcome.model) or ("model",)
    return Model(names, welcome, form, thinks, begun, tokenizer)
