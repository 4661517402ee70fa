"""As `sglang.srt.hf_transformers_utils`, which newer programs find in `srt.utils`."""

from branchwork.compat.srt.utils.hf_transformers_utils import get_tokenizer

__all__ = ["get_tokenizer"]
