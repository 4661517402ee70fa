"""As `sglang.lang.backend.litellm`."""

from branchwork.lang.api.litellm import LiteLLM

__all__ = ["LiteLLM"]
