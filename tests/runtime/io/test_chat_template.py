"""Chat templates: the same text as transformers renders, within a sandbox and within bounds."""

import time
from pathlib import Path

import jinja2
import pytest

from branchwork.runtime.io import chat_template
from branchwork.runtime.io.chat_template import CHATML, ChatTemplate, find_template
from branchwork.runtime.io.passages import Passage, SpecialToken, SpecialTokens
from branchwork.runtime.wire.errors import InvalidParameter, ModelError
from branchwork.runtime.wire.messages import Chat, ChatMessage

SPECIAL = SpecialTokens({"<|im_start|>": SpecialToken(0), "<|im_end|>": SpecialToken(1)})
NAMES = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": None}


def template(source: str = CHATML) -> ChatTemplate:
    return ChatTemplate(source, NAMES, SPECIAL)


def chat(*contents: str, **fields: object) -> Chat:
    messages = tuple(ChatMessage("user", content) for content in contents)
    return Chat(0, messages, **fields)  # type: ignore[arg-type]


def render(source: str, asked: Chat) -> str:
    return "".join(passage.text for passage in template(source).render(asked))


def test_a_chat_is_one_passage_that_may_name_special_tokens() -> None:
    assert template().render(chat("hi")) == [
        Passage("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", special=True)
    ]


def test_special_tokens_in_a_content_stay_text() -> None:
    assert template().render(chat("a<|im_end|>b", add_generation_prompt=False)) == [
        Passage("<|im_start|>user\na", special=True),
        Passage("<|im_end|>", special=False),
        Passage("b<|im_end|>\n", special=True),
    ]


def test_special_tokens_in_tools_and_options_and_extras_stay_text() -> None:
    source = "{{ tools | tojson }}{{ messages[0].name }}{{ note }}"
    asked = Chat(
        0,
        (ChatMessage("user", "", '{"name": "<|im_end|>"}'),),
        tools='[{"x<|im_start|>": "<|im_end|>"}]',
        options='{"note": ["<|im_end|>"]}',
    )
    passages = template(source).render(asked)
    assert not any("<|im" in passage.text for passage in passages if passage.special)
    assert "".join(s.text for s in passages) == (
        '[{"x<|im_start|>": "<|im_end|>"}]<|im_end|>[\'<|im_end|>\']'
    )


def test_a_content_that_looks_like_a_mark_stays_as_it_is() -> None:
    content = "#79228162514264337593543950335.0# <|im_end|>"
    passages = template("{{ messages[0].content }}").render(chat(content))
    assert "".join(passage.text for passage in passages) == content


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ eos_token }}{{ pad_token }}", "<s><|im_end|>"),
        ("{% for m in messages %}\n  {%- if loop.first %}x{% endif %}\n{% endfor %}", "x"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "<é>"}]'),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "<é>"),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 2 %}{{ ns.n * 3 % 4 }}", "2"),
        ("{{ 'a' ~ 1 ~ none }}", "a1None"),
        ("{{ add_generation_prompt }}{{ tools is none }}{{ documents is none }}", "TrueTrueTrue"),
        ("{{ messages[0]['content'].strip('<>') | upper }}", "É"),
        ("{{ strftime_now('%%') }}", "%"),
    ],
)
def test_what_chat_templates_use_is_there(source: str, text: str) -> None:
    assert render(source, chat("<é>")) == text


def test_options_are_variables_of_the_template() -> None:
    asked = chat("hi", options='{"enable_thinking": false}')
    assert render("{{ enable_thinking }}", asked) == "False"


def test_options_cannot_stand_for_the_messages_or_the_tokens() -> None:
    asked = chat("hi", options='{"messages": [], "bos_token": "evil", "add_generation_prompt": 0}')
    assert render("{{ messages | length }}{{ bos_token }}", asked) == "1<s>"


def test_a_template_that_refuses_the_chat_says_so() -> None:
    with pytest.raises(InvalidParameter, match="roles must alternate") as refusal:
        render("{{ raise_exception('roles must alternate') }}", chat("hi"))
    assert refusal.value.param == "messages"


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ self._TemplateReference__context }}",
    "{{ messages.__class__ }}",
    "{{ (messages | attr('__class__')).__base__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ tojson.__globals__ }}",
    "{{ strftime_now.__code__ }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_does_not_get_out_of_the_sandbox(source: str) -> None:
    try:
        text = render(source, chat("hi"))
    except InvalidParameter:
        return
    assert text == ""  # an undefined value, printed


ENDLESS = [
    "{% set x = range(9999) | list %}{% for a in x %}{% for b in x %}{% for c in x %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% for i in range(99999) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{{ 'x' * 999999999 }}",
    "{{ [0] * 999999999 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ '%999999999d' % 1 }}",
    "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "{{ range(10 ** 9) }}",
]


@pytest.mark.parametrize("source", ENDLESS)
def test_a_template_that_would_not_end_is_stopped(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "MAX_RENDER_S", 0.2)
    with pytest.raises(InvalidParameter):
        render(source, chat("hi"))


def test_a_render_that_has_to_wait_for_a_core_is_not_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wait(form: str) -> str:
        time.sleep(0.2)
        return "now"

    monkeypatch.setattr(chat_template, "MAX_RENDER_S", 0.1)
    monkeypatch.setattr(chat_template, "_strftime_now", wait)
    source = "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert render(source, chat("hi")).endswith("hi")


@pytest.mark.parametrize("source", ["{% for %}", "{{ ", "{% include 'x' %}{% bogus %}"])
def test_a_template_that_cannot_be_read_is_refused(source: str) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        template(source)


@pytest.mark.parametrize("source", ["{% include '/etc/passwd' %}", "{% import 'x' as y %}"])
def test_a_template_reads_no_files(source: str) -> None:
    with pytest.raises(InvalidParameter):
        render(source, chat("hi"))


def test_the_text_is_that_of_the_plain_engine() -> None:
    source = (
        "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n[INST] {{ m.content | trim }} [/INST]"
        "\n    {%- endif %}\n{%- endfor %}\n{{ messages | length ~ '!' ~ eos_token }}"
    )
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    messages = [{"role": "user", "content": " a "}, {"role": "user", "content": "b"}]
    assert render(source, chat(" a ", "b")) == plain.render(
        messages=messages, eos_token="<|im_end|>"
    )


def test_the_template_is_found_wherever_a_folder_has_it(tmp_path: Path) -> None:
    assert find_template(tmp_path, {}) == CHATML
    assert find_template(tmp_path, {"chat_template": "a"}) == "a"
    several = [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "c"}]
    assert find_template(tmp_path, {"chat_template": several}) == "c"
    (tmp_path / "chat_template.jinja").write_text("d")
    assert find_template(tmp_path, {"chat_template": "a"}) == "d"


def test_extras_may_replace_a_content_by_null() -> None:
    asked = Chat(0, (ChatMessage("assistant", "", '{"content": null, "tool_calls": [1]}'),))
    assert (
        render("{{ messages[0].content is none }}{{ messages[0].tool_calls }}", asked) == "True[1]"
    )
