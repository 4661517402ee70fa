"""As `sglang.lang.chat_template`: the text around messages, for servers that do not tell their own.

`backend.chat_template = get_chat_template("llama-3-instruct")` makes programs write messages so.
"""

from branchwork.lang.chat_template import ChatTemplate, get_chat_template, register_chat_template

__all__ = ["ChatTemplate", "get_chat_template", "register_chat_template"]
