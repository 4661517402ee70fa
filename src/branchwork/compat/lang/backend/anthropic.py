"""As `sglang.lang.backend.anthropic`."""

from branchwork.lang.api.anthropic import Anthropic

__all__ = ["Anthropic"]
