"""As `sglang.lang.backend.base_backend`."""

from branchwork.lang.chat_template import ChatTemplate
from branchwork.lang.trace import Nowhere


class BaseBackend(Nowhere):
    """A backend that takes everything and answers nothing: enough to trace and compile a program for."""

    chat_template: ChatTemplate | None = None
