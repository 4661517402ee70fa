"""Writes sprout's shape, tokenizer and template with weights that were never trained: `python -m … FOLDER`.

Whatever such a model answers, it does not know what was asked; what is right about its answer, the constraint has done.
"""

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import branchwork.runtime.models

SPROUT = Path(branchwork.runtime.models.__file__).parent / "sprout"


def write(folder: Path) -> None:
    """4.5 M weights, as transformers begins with them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(SPROUT)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(SPROUT / name, folder / name)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
