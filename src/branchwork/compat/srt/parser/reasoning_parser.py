"""As `sglang.srt.parser.reasoning_parser`."""

from branchwork.lang.reasoning import splitter


class ReasoningParser:
    """Takes a text apart into what was thought and what was said."""

    def __init__(self, model_type: str) -> None:
        self._thought, self._said = splitter(model_type)

    def parse_non_stream(self, full_text: str) -> tuple[str, str]:
        """What was thought, and what was said."""
        return self._thought(full_text), self._said(full_text)
