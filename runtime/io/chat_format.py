"""The text around a message of each role, found by asking the model's template with sentinels."""

from collections.abc import Callable, Sequence

from branchwork.runtime.wire.errors import RequestError
from branchwork.runtime.wire.messages import Chat, ChatFormat, ChatMessage

Render = Callable[[Chat], str]

_CONTENTS = ("Qzaleph", "Qzbeth", "Qzgimel", "Qzdaleth", "Qzhe")


def find_chat_format(render: Render, bos: str) -> ChatFormat:
    """What `render` writes around system, user and assistant messages; `bos` is the BOS token as text.

    Exact for templates that write messages one after another, each between two texts of its role's own (ChatML,
    Llama 3, Gemma, Phi, …). For others it is near: whoever must have it exact sends the messages as a `Chat`.
    """
    user, assistant = "user", "assistant"
    alone = _gaps(render, [user])
    if alone is None:
        return _CHATML
    turns = _gaps(render, [user, assistant, user]) or [*alone, "", ""]
    end_user = alone[1]
    asked = _gaps(render, [user], add_generation_prompt=True) or alone
    begin_assistant = asked[1].removeprefix(end_user) or turns[1].removeprefix(end_user)
    answered = _gaps(render, [user, assistant])
    end_assistant = answered[2] if answered else end_user
    begin_user = turns[2].removeprefix(end_assistant) or alone[0].removeprefix(bos)
    head = alone[0].removesuffix(begin_user)
    begin_system, end_system = _system(render, begin_user, bos)
    prefix, default_system = _default_system(head, begin_system, end_system, bos)
    return ChatFormat(
        begin={"system": begin_system, user: begin_user, assistant: begin_assistant},
        end={"system": end_system, user: end_user, assistant: end_assistant},
        prefix=prefix,
        default_system=default_system,
    )


def _system(render: Render, begin_user: str, bos: str) -> tuple[str, str]:
    gaps = _gaps(render, ["system", "user"])
    if gaps is None:  # a template without the role: the words go before the first user's
        return "", "\n\n"
    begin = gaps[0].removeprefix(bos)
    end = gaps[1].removesuffix(begin_user)
    return begin, end


def _default_system(head: str, begin: str, end: str, bos: str) -> tuple[str, str]:
    """What precedes the first user message, as (prefix, the system message that the template adds by itself)."""
    prefix = bos if bos and head.startswith(bos) else ""
    rest = head.removeprefix(prefix)
    if begin and end and rest.startswith(begin) and rest.endswith(end):
        return prefix, rest[len(begin) : len(rest) - len(end)]
    return prefix + rest, ""


def _gaps(
    render: Render, roles: Sequence[str], add_generation_prompt: bool = False
) -> list[str] | None:
    """The texts before, between and after the contents of messages of these roles; None if they cannot be told."""
    contents = _CONTENTS[: len(roles)]
    messages = tuple(ChatMessage(role, text) for role, text in zip(roles, contents, strict=True))
    try:
        text = render(Chat(0, messages, add_generation_prompt=add_generation_prompt))
    except RequestError:
        return None
    gaps = []
    for content in contents:
        if text.count(content) != 1:
            return None
        gap, _, text = text.partition(content)
        gaps.append(gap)
    return [*gaps, text]


_CHATML = ChatFormat(
    begin={role: f"<|im_start|>{role}\n" for role in ("system", "user", "assistant")},
    end=dict.fromkeys(("system", "user", "assistant"), "<|im_end|>\n"),
)
