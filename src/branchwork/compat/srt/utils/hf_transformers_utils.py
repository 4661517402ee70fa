"""As `sglang.srt.utils.hf_transformers_utils`."""

from typing import Any


def get_tokenizer(model_path: str) -> Any:
    """The tokenizer of a model folder, a hub name, or the embedded model."""
    # transformers is part of branchwork[runtime], and 2 s to import.
    from transformers import AutoTokenizer  # noqa: PLC0415

    from branchwork.runtime.models.loader import model_folder  # noqa: PLC0415

    return AutoTokenizer.from_pretrained(model_folder(model_path))
