"""What the gateway knows of the model behind it: names, size, and how it writes tool calls and thoughts."""

import time
from dataclasses import dataclass, field
from typing import Any

from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.reasoning import BEGIN
from branchwork.runtime.server.tools import FORMATS, ToolFormat, format_of
from branchwork.runtime.wire.messages import Welcome


@dataclass(frozen=True, slots=True)
class Model:
    """One model, as its runtime announced it. `names` are what clients may call it; the first is shown."""

    names: tuple[str, ...]
    welcome: Welcome
    tool_format: ToolFormat | None = None
    thinks: bool = False
    thought_begun: bool = False
    tokenizer: dict[str, Any] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        """What answers call the model."""
        return self.names[0]

    def check(self, name: str | None) -> None:
        """Raises ApiError (404) when a request names another model."""
        if name is not None and name not in self.names:
            raise ApiError(
                f"the model {name[:128]!r} does not exist; this server has {self.name}",
                status=404,
                param="model",
                code="model_not_found",
            )

    def card(self) -> dict[str, Any]:
        """OpenAI's description of the model."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "branchwork",
            "max_model_len": self.welcome.context_len,
        }


def describe(
    config: ServerConfig, welcome: Welcome, tokenizer: dict[str, Any], rendered: str
) -> Model:
    """The model of a runtime.

    `tokenizer` is the runtime's "tokenizer_info"; `rendered` is a short chat as the template writes it, by which is
    seen whether the template itself opens the thought.
    """
    template = tokenizer.get("chat_template") or ""
    own = tuple(
        name for name in (welcome.model, welcome.model.rstrip("/").rpartition("/")[2]) if name
    )
    served = tuple(name.strip() for name in config.served_model_name.split(",") if name.strip())
    wanted = config.tool_format
    form = format_of(template) if wanted == "auto" else FORMATS.get(wanted)
    begun = rendered.rstrip().endswith(BEGIN)
    thinks = config.reasoning_format == "think"
    if config.reasoning_format == "auto":
        thinks = begun or "</think>" in template
    names = served or tuple(dict.fromkeys(reversed(own))) or ("model",)
    return Model(names, welcome, form, thinks, begun, tokenizer)
