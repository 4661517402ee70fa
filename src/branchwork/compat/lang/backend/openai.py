"""As `sglang.lang.backend.openai`."""

from branchwork.lang.api.openai import OpenAI

__all__ = ["OpenAI"]
