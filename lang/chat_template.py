"""Chat formats by name, for backends that cannot tell their model's own."""

import msgspec

from branchwork.runtime.wire.errors import ProgramError
from branchwork.runtime.wire.messages import ChatFormat

Sides = tuple[str, str]


class ChatTemplate(msgspec.Struct, frozen=True):
    """The text before and after a message of each role, and the system message of a chat that has none."""

    name: str
    role_prefix_and_suffix: dict[str, Sides]
    default_system_prompt: str | None = None
    stop_str: tuple[str, ...] = ()

    def get_prefix_and_suffix(self, role: str, messages: object = None) -> Sides:
        """The text before and after a message of `role`."""
        return self.role_prefix_and_suffix.get(role, ("", ""))

    def chat_format(self) -> ChatFormat:
        """The same, as a backend tells it."""
        sides = self.role_prefix_and_suffix
        return ChatFormat(
            {role: before for role, (before, _) in sides.items()},
            {role: after for role, (_, after) in sides.items()},
            default_system=self.default_system_prompt or "",
        )


def _same(before: str, after: str) -> dict[str, Sides]:
    return {
        role: (before.format(role=role), after) for role in ("system", "user", "assistant", "tool")
    }


_TEMPLATES: dict[str, ChatTemplate] = {}


def register_chat_template(template: ChatTemplate) -> None:
    """Make a template known by its name."""
    _TEMPLATES[template.name] = template


def get_chat_template(name: str) -> ChatTemplate:
    """The template of that name. Raises ProgramError, which names those that are known."""
    if name not in _TEMPLATES:
        raise ProgramError(f"chat template {name!r} is none of {', '.join(_TEMPLATES)}")
    return _TEMPLATES[name]


register_chat_template(
    ChatTemplate(
        "default",
        {"system": ("SYSTEM:", "\n"), "user": ("USER:", "\n"), "assistant": ("ASSISTANT:", "\n")},
    )
)
register_chat_template(
    ChatTemplate("chatml", _same("<|im_start|>{role}\n", "<|im_end|>\n"), stop_str=("<|im_end|>",))
)
register_chat_template(
    ChatTemplate(
        "qwen",
        _same("<|im_start|>{role}\n", "<|im_end|>\n"),
        "You are a helpful assistant.",
        ("<|im_end|>",),
    )
)
register_chat_template(
    ChatTemplate(
        "llama-2-chat",
        {
            "system": ("<<SYS>>\n", "\n<</SYS>>\n\n"),
            "user": ("[INST] ", " [/INST]"),
            "assistant": ("", " </s><s>"),
        },
    )
)
register_chat_template(
    ChatTemplate(
        "llama-3-instruct",
        _same("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
        stop_str=("<|eot_id|>",),
    )
)
