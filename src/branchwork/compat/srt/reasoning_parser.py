"""As `sglang.srt.reasoning_parser`, which newer programs find in `srt.parser`."""

from branchwork.compat.srt.parser.reasoning_parser import ReasoningParser

__all__ = ["ReasoningParser"]
