"""Messages of a chat, as expressions: `s += user("…")`."""

from branchwork.lang.ir import Expr, RoleMark, Seq, expression


def system(expr: Expr | str | None = None) -> Seq:
    """A system message that holds `expr`.

    >>> bw.function(lambda: bw.system("Be brief.")).run().messages()
    [{'role': 'system', 'content': 'Be brief.'}]
    """
    return role("system", expr)


def user(expr: Expr | str | None = None) -> Seq:
    """A user's message that holds `expr`.

    >>> bw.function(lambda: bw.user("Who are you?")).run().messages()
    [{'role': 'user', 'content': 'Who are you?'}]
    """
    return role("user", expr)


def assistant(expr: Expr | str | None = None) -> Seq:
    """A message of the model that holds `expr`, such as `assistant(gen("answer"))`.

    >>> state = bw.function(lambda: bw.user("Well?") + bw.assistant(bw.gen("answer"))).run()
    >>> state.messages()[1]
    {'role': 'assistant', 'content': 'Fine.'}
    """
    return role("assistant", expr)


def role(name: str, expr: Expr | str | None = None) -> Seq:
    """A message of any role that the model's chat template knows.

    >>> bw.function(lambda: bw.role("tool", "21 degrees")).run().messages()
    [{'role': 'tool', 'content': '21 degrees'}]
    """
    begin, end = RoleMark(name, "begin"), RoleMark(name, "end")
    return begin + end if expr is None else begin + expression(expr) + end


def system_begin() -> RoleMark:
    """Where a system message begins.

    >>> bw.function(lambda: bw.system_begin() + "Hi" + bw.system_end()).run().messages()
    [{'role': 'system', 'content': 'Hi'}]
    """
    return RoleMark("system", "begin")


def system_end() -> RoleMark:
    """Where a system message ends.

    >>> bw.function(lambda: bw.system_begin() + "Hi" + bw.system_end()).run().text()
    '<|im_start|>system\\nHi<|im_end|>\\n'
    """
    return RoleMark("system", "end")


def user_begin() -> RoleMark:
    """Where a user's message begins.

    >>> bw.function(lambda: bw.user_begin() + "Hi" + bw.user_end()).run().messages()
    [{'role': 'user', 'content': 'Hi'}]
    """
    return RoleMark("user", "begin")


def user_end() -> RoleMark:
    """Where a user's message ends.

    >>> bw.function(lambda: bw.user_begin() + "Hi" + bw.user_end()).run().text()
    '<|im_start|>user\\nHi<|im_end|>\\n'
    """
    return RoleMark("user", "end")


def assistant_begin() -> RoleMark:
    """Where a message of the model begins.

    >>> bw.function(lambda: bw.assistant_begin() + "Hi" + bw.assistant_end()).run().messages()
    [{'role': 'assistant', 'content': 'Hi'}]
    """
    return RoleMark("assistant", "begin")


def assistant_end() -> RoleMark:
    """Where a message of the model ends.

    >>> bw.function(lambda: bw.assistant_begin() + "Hi" + bw.assistant_end()).run().text()
    '<|im_start|>assistant\\nHi<|im_end|>\\n'
    """
    return RoleMark("assistant", "end")
