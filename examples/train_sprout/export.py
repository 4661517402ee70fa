"""Writing a trained model as a folder that transformers loads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from examples.train_sprout.document import END_OF_TEXT, IM_END, IM_START
from examples.train_sprout.model import Llama
from examples.train_sprout.template import CHAT_TEMPLATE
from safetensors.torch import save_file
from tokenizers import Tokenizer


def write_json(path: Path, value: object) -> None:
    """Readable JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config, weights in bfloat16, tokenizer and chat template to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    end, pad = tokenizer.token_to_id(IM_END), tokenizer.token_to_id(END_OF_TEXT)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **model.shape.config(),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "torch_dtype": "bfloat16",
    }
    write_json(folder / "config.json", config)
    generation = {"eos_token_id": [end, pad], "pad_token_id": pad, "do_sample": False}
    write_json(folder / "generation_config.json", generation)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": IM_END,
            "pad_token": END_OF_TEXT,
            "additional_special_tokens": [IM_START],
            "model_max_length": model.shape.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
