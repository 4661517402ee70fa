"""The text around each role, found by asking templates of the shapes that models bring."""

import pytest

from branchwork.runtime.io.chat_format import find_chat_format
from branchwork.runtime.io.chat_template import CHATML, ChatTemplate
from branchwork.runtime.io.passages import SpecialToken, SpecialTokens
from branchwork.runtime.wire.messages import Chat, ChatFormat, ChatMessage

QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    + CHATML
)
LLAMA_3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start|>' ~ m.role ~ '<|end|>\n\n' ~ m.content | trim ~ '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<turn>' ~ role ~ '\n' ~ m.content ~ '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' ~ m.content ~ ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' ~ m.content ~ eos_token }}"
    "{% else %}{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)


def template(source: str) -> ChatTemplate:
    special = SpecialTokens({"<s>": SpecialToken(0)})
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, special)


def render(source: str, asked: Chat) -> str:
    return "".join(passage.text for passage in template(source).render(asked))


def find(source: str) -> ChatFormat:
    return find_chat_format(lambda asked: render(source, asked), "<s>")


def around(found: ChatFormat, role: str) -> tuple[str, str]:
    return found.begin[role], found.end[role]


def test_chatml() -> None:
    found = find(CHATML)
    for role in ("system", "user", "assistant"):
        assert around(found, role) == (f"<|im_start|>{role}\n", "<|im_end|>\n")
    assert (found.prefix, found.default_system) == ("", "")


def test_a_system_message_that_the_template_adds_by_itself() -> None:
    found = find(QWEN)
    assert around(found, "system") == ("<|im_start|>system\n", "<|im_end|>\n")
    assert (found.prefix, found.default_system) == ("", "Be helpful.")


def test_a_bos_before_the_first_message() -> None:
    found = find(LLAMA_3)
    assert found.prefix == "<s>"
    for role in ("system", "user", "assistant"):
        assert around(found, role) == (f"<|start|>{role}<|end|>\n\n", "<|eot|>")


def test_a_template_without_system_messages() -> None:
    found = find(GEMMA)
    assert found.prefix == "<s>"
    assert around(found, "system") == ("", "\n\n")
    assert around(found, "user") == ("<turn>user\n", "<end>\n")
    assert around(found, "assistant") == ("<turn>model\n", "<end>\n")


def test_turns_without_a_generation_prompt() -> None:
    found = find(MISTRAL)
    assert found.prefix == "<s>"
    assert around(found, "user") == ("[INST] ", " [/INST]")
    assert around(found, "assistant") == (" ", "</s>")


def test_a_template_that_takes_nothing_is_treated_as_chatml() -> None:
    assert around(find("{{ raise_exception('no') }}"), "user") == (
        "<|im_start|>user\n",
        "<|im_end|>\n",
    )


@pytest.mark.parametrize("source", [CHATML, QWEN, LLAMA_3, GEMMA, MISTRAL])
def test_roles_joined_by_hand_equal_the_rendered_chat(source: str) -> None:
    found = find(source)
    roles = ["user", "assistant", "user"]
    if "no system" not in source and "alternate" not in source:
        roles.insert(0, "system")
    messages = tuple(ChatMessage(role, f"text {i}") for i, role in enumerate(roles))
    by_hand = found.prefix
    if roles[0] != "system" and found.default_system:
        by_hand += found.begin["system"] + found.default_system + found.end["system"]
    for message in messages:
        by_hand += found.begin[message.role] + message.content + found.end[message.role]
    assert render(source, Chat(0, messages)) in (by_hand, by_hand + found.begin["assistant"])
