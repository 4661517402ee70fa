"""Sprout's chat template: ChatML, with tools listed in the system message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

TOOLS_BEFORE = "You can call these tools:\n<tools>\n"
TOOLS_AFTER = (
    "\n</tools>\nTo call a tool, answer with\n<tool_call>\n"
    '{"name": <name>, "arguments": <arguments>}\n</tool_call>'
)


def tool_prompt(tools: Sequence[dict[str, Any]], own: str | None) -> str:
    """The system message that lists `tools` after the caller's `own` text."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return f"{own + chr(10) + chr(10) if own else ''}{TOOLS_BEFORE}{listed}{TOOLS_AFTER}"


def _quoted(text: str) -> str:
    """The text as a literal of Jinja."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


# The response of a tool is a user's turn, as in the Hermes and Qwen forms.
CHAT_TEMPLATE = (
    "{%- if messages[0].role == 'system' %}{%- set own = messages[0].content %}"
    "{%- set rest = messages[1:] %}{%- else %}{%- set own = none %}{%- set rest = messages %}"
    "{%- endif %}"
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if own %}{{- own + '\\n\\n' }}{%- endif %}"
    f"{{{{- {_quoted(TOOLS_BEFORE)} }}}}"
    "{%- for tool in tools %}{{- tool | tojson }}{%- if not loop.last %}{{- '\\n' }}{%- endif %}"
    "{%- endfor %}"
    f"{{{{- {_quoted(TOOLS_AFTER)} + '<|im_end|>\\n' }}}}"
    "{%- elif own is not none %}{{- '<|im_start|>system\\n' + own + '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in rest %}"
    "{%- if message.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{%- elif message.role == 'assistant' and message.tool_calls %}"
    "{{- '<|im_start|>assistant' }}{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}"
    "{%- for call in message.tool_calls %}"
    "{%- set function = call.function if call.function else call %}"
    '{{- \'\\n<tool_call>\\n{"name": "\' + function.name + \'", "arguments": \' }}'
    "{%- if function.arguments is string %}{{- function.arguments }}"
    "{%- else %}{{- function.arguments | tojson }}{%- endif %}{{- '}\\n</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
