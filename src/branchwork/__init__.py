"""Branchwork: a language for programs that talk to language models, and the runtime that serves them.

from branchwork import function, gen

@function
def capital(s, country):
    s += "The capital of " + country + " is" + gen("city", stop=".")

print(capital.run(country="France")["city"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from branchwork.lang.adapter import with_adapter
from branchwork.lang.choices import (
    ChoicesDecision,
    ChoicesSamplingMethod,
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from branchwork.lang.default import (
    Runtime,
    connect,
    flush_cache,
    get_server_info,
    global_config,
    set_default_backend,
)
from branchwork.lang.function import Function, function
from branchwork.lang.gen import gen, gen_int, gen_string, image, select, separate_reasoning, video
from branchwork.lang.ir import Expr
from branchwork.lang.roles import (
    assistant,
    assistant_begin,
    assistant_end,
    role,
    system,
    system_begin,
    system_end,
    user,
    user_begin,
    user_end,
)
from branchwork.lang.state import AsyncState, State
from branchwork.runtime.wire.errors import BranchworkError

if TYPE_CHECKING:
    from branchwork.lang.api.anthropic import Anthropic
    from branchwork.lang.api.endpoint import RuntimeEndpoint
    from branchwork.lang.api.litellm import LiteLLM
    from branchwork.lang.api.openai import OpenAI
    from branchwork.lang.engine import Engine
    from branchwork.lang.tools import async_tool_loop, tool_loop, tool_prompt

__version__ = "0.1.0"

# What only some programs use is imported when it is first named.
_LAZY = {
    "Anthropic": "branchwork.lang.api.anthropic",
    "Engine": "branchwork.lang.engine",
    "LiteLLM": "branchwork.lang.api.litellm",
    "OpenAI": "branchwork.lang.api.openai",
    "RuntimeEndpoint": "branchwork.lang.api.endpoint",
    "async_tool_loop": "branchwork.lang.tools",
    "tool_loop": "branchwork.lang.tools",
    "tool_prompt": "branchwork.lang.tools",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'branchwork' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "Anthropic",
    "AsyncState",
    "BranchworkError",
    "ChoicesDecision",
    "ChoicesSamplingMethod",
    "Engine",
    "Expr",
    "Function",
    "LiteLLM",
    "OpenAI",
    "Runtime",
    "RuntimeEndpoint",
    "State",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "async_tool_loop",
    "connect",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "global_config",
    "greedy_token_selection",
    "image",
    "role",
    "select",
    "separate_reasoning",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "tool_loop",
    "tool_prompt",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
    "video",
    "with_adapter",
]
