"""As `sglang.srt.hf_transformers_utils`."""

from typing import Any


def get_tokenizer(model_path: str) -> Any:
    """The tokenizer of a model folder or hub name."""
    # transformers is part of branchwork[runtime], and 2 s to import.
    from transformers import AutoTokenizer  # noqa: PLC0415

    return AutoTokenizer.from_pretrained(model_path)
