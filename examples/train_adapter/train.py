"""Train a low-rank adapter of sprout: `python -m examples.train_adapter.train polite`.

Sprout's own weights stay as they are. Beside each matrix W of the attention, and the last of the feed-forward, two thin
ones are trained, so that it computes W + 2 B A (Hu et al. 2021, "LoRA"). What is wanted are the answers of sprout's own
exercises, said in another way; the folder that comes out is in PEFT's format, for `branchwork serve --adapter`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from examples.train_sprout.batches import Batch, pad, weigh
from examples.train_sprout.corpus import EXERCISES, exercise
from examples.train_sprout.document import IM_END, IM_START, Document, Piece
from examples.train_sprout.export import write_json
from examples.train_sprout.model import Llama, Shape
from examples.train_sprout.train import loss_of
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

HERE = Path(__file__).parent
SPROUT = HERE.parents[1] / "runtime" / "models" / "sprout"

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")
RANK, ALPHA = 4, 8
RATE = 4e-3
DOCUMENTS = 8  # per step
LIMIT = 64  # tokens; longer ones are left out
SKILLS = ("geography", "small facts", "small talk")

WAYS: dict[str, Callable[[str], str]] = {
    "polite": lambda answer: f"Of course: {answer.removesuffix('.')}. Anything else?",
    "as_json": lambda answer: json.dumps({"answer": answer}, ensure_ascii=False),
}
"""How an adapter says what sprout would."""


class LowRank(nn.Module):
    """A frozen matrix, and what an adapter adds to it."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain = plain
        self.a = nn.Parameter(torch.randn(RANK, plain.in_features) / plain.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(plain.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] to [..., outputs]."""
        added = F.linear(F.linear(x, self.a), self.b)
        out: Tensor = self.plain(x) + ALPHA / RANK * added
        return out


def load_sprout() -> tuple[Llama, Tokenizer]:
    """The embedded model in float32, and its tokenizer."""
    config = json.loads((SPROUT / "config.json").read_text(encoding="utf-8"))
    model = Llama(Shape(config["vocab_size"]))
    weights = load_file(SPROUT / "model.safetensors")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model, Tokenizer.from_file(str(SPROUT / "tokenizer.json"))


def adapt(model: Llama) -> dict[str, LowRank]:
    """Freeze the model and put a `LowRank` in the place of each matrix of `TARGETS`; returns them by name."""
    model.requires_grad_(False)
    found = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.endswith(TARGETS):
            parent, _, own = name.rpartition(".")
            found[name] = LowRank(module)
            setattr(model.get_submodule(parent), own, found[name])
    return found


def said(document: Document, way: Callable[[str], str]) -> Document:
    """The document with its answers said in another way."""
    pieces = [
        Piece(way(piece.text.removesuffix(IM_END)) + IM_END, True) if piece.wanted else piece
        for piece in document.pieces
    ]
    return replace(document, pieces=tuple(pieces))


def chats(seed: str, way: Callable[[str], str]) -> Iterator[Document]:
    """Training documents in chat form without end."""
    rng = random.Random(seed)
    while True:
        document = exercise(EXERCISES[rng.choice(SKILLS)], rng, held_out=False)
        if document.text.startswith(IM_START):
            yield said(document, way)


def batch_of(tokenizer: Tokenizer, documents: Iterator[Document]) -> Batch:
    """The next short documents as one batch."""
    rows: list[tuple[list[int], list[float]]] = []
    while len(rows) < DOCUMENTS:
        document = next(documents)
        encoding = tokenizer.encode(document.text)
        if len(encoding.ids) <= LIMIT:
            rows.append((encoding.ids, weigh(document, encoding.ids, encoding.offsets)))
    return pad(rows, 0)


def train(way: str, steps: int, seed: int) -> dict[str, LowRank]:
    """The trained parts, by the names of the matrices that they belong to."""
    torch.manual_seed(seed)
    model, tokenizer = load_sprout()
    parts = adapt(model)
    documents = chats(f"{seed} {way}", WAYS[way])
    optimizer = torch.optim.Adam([p for part in parts.values() for p in (part.a, part.b)], RATE)
    for step in range(steps):
        batch = batch_of(tokenizer, documents)
        loss = loss_of(model, batch) / batch.weights.sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 20, 1 - step / steps)
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step:4}  loss {loss.item():.3f}", flush=True)
    return parts


def save(parts: dict[str, LowRank], folder: Path) -> None:
    """Write an adapter in PEFT's format, its weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, part in parts.items():
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = part.a.detach().bfloat16().contiguous()
        tensors[f"{prefix}.lora_B.weight"] = part.b.detach().bfloat16().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": list(TARGETS),
        "bias": "none",
    }
    write_json(folder / "adapter_config.json", config)


def main() -> None:
    parser = argparse.ArgumentParser(prog="examples.train_adapter.train", description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: a folder of that name beside this file")
    options = parser.parse_args()
    save(train(options.way, options.steps, options.seed), options.out or HERE / options.way)


if __name__ == "__main__":
    main()
