"""Train sprout: `python -m examples.train_sprout.train`.

The run is a function of its seed, except for the sums of floating-point numbers over threads.
It stops and goes on at any checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from examples.train_sprout.batches import Batch, make_batch
from examples.train_sprout.corpus import EARLY, LATE
from examples.train_sprout.export import export, write_json
from examples.train_sprout.model import Llama, Shape
from examples.train_sprout.optimizer import Optimizer
from examples.train_sprout.tokenizer import load_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tqdm import tqdm

STEPS = 3600
WARM_UP = 40  # steps
MUON_RATE, ADAM_RATE = 0.02, 0.004
MICRO_TOKENS = 2048  # per pass: activations that stay in the second-level cache


@dataclass(frozen=True, slots=True)
class Stage:
    """What is trained on from a step on: documents by weight, in rows of `length` tokens."""

    start: float
    weights: dict[str, float]
    length: int
    rows: int


# Short rows and many drills until copying has appeared, then everything in its final share.
STAGES = (
    Stage(0.0, EARLY, 256, 16),
    Stage(0.3, LATE, 256, 16),
    Stage(0.45, LATE, 512, 8),
)
DECAY = 0.55  # the fraction of the run after which the rates fall in a line to nothing


def stage_at(progress: float) -> Stage:
    """The stage of a moment; `progress` goes from 0 to 1."""
    return [stage for stage in STAGES if stage.start <= progress][-1]


def rate_at(step: int, steps: int) -> float:
    """The factor on the learning rates: up, level, down in a line."""
    return min(1.0, (step + 1) / WARM_UP, (1 - step / steps) / (1 - DECAY))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run's place on disk: tensors in safetensors, numbers in JSON."""

    folder: Path

    def save(self, optimizer: Optimizer, step: int) -> None:
        """Store the state after `step` steps; an interrupted save leaves the former one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(optimizer.state(), self.folder / f"state-{step}.safetensors")
        write_json(self.folder / "new.json", {"step": step})
        os.replace(self.folder / "new.json", self.folder / "checkpoint.json")
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != f"state-{step}.safetensors":
                old.unlink()

    def load(self, optimizer: Optimizer) -> int:
        """Restore the last state; 0 if there is none."""
        path = self.folder / "checkpoint.json"
        if not path.exists():
            return 0
        step: int = json.loads(path.read_text(encoding="utf-8"))["step"]
        optimizer.load(load_file(self.folder / f"state-{step}.safetensors"))
        return step


def loss_of(model: Llama, batch: Batch) -> torch.Tensor:
    """The weighted sum of cross entropies, in nats."""
    logits = model(batch.ids[:, :-1])
    targets = batch.ids[:, 1:].flatten()
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
    return (losses * batch.weights.flatten()).sum()


def accumulate(model: Llama, batch: Batch) -> float:
    """Add the batch's gradients in passes of `MICRO_TOKENS`; returns the mean loss."""
    rows = max(1, MICRO_TOKENS // batch.weights.shape[1])
    total = batch.weights.sum()
    loss = 0.0
    for ids, weights in zip(batch.ids.split(rows), batch.weights.split(rows), strict=True):
        part = loss_of(model, Batch(ids, weights)) / total
        part.backward()
        loss += part.item()
    return loss


def batches(tokenizer: Tokenizer, seed: int, first: int, steps: int) -> Iterator[Batch]:
    """The batches of the steps from `first` on, each made while the one before is used."""

    def make(step: int) -> Batch:
        stage = stage_at(step / steps)
        return make_batch(tokenizer, stage.weights, stage.rows, stage.length, f"{seed} {step}")

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, first)
        for step in range(first, steps):
            batch = coming.result()
            coming = pool.submit(make, min(step + 1, steps - 1))
            yield batch


def train(
    work: Path,
    out: Path | None,
    *,
    shape: Shape | None = None,
    seed: int = 0,
    steps: int = STEPS,
    until: int | None = None,
    save_every: int = 200,
) -> list[float]:
    """Train up to `until` (else `steps`), going on from `work`; returns the losses of the steps.

    `steps` is the length of the whole run, from which the stages and rates follow.
    """
    tokenizer = load_tokenizer(work / "tokenizer.json")
    torch.manual_seed(seed)
    model = Llama(shape or Shape(tokenizer.get_vocab_size()))
    optimizer = Optimizer(model)
    model.to(torch.bfloat16)
    checkpoint = Checkpoint(work)
    first, last = checkpoint.load(optimizer), until or steps
    losses: list[float] = []
    bar = tqdm(total=steps, initial=first, unit="step", dynamic_ncols=True)
    for step, batch in enumerate(batches(tokenizer, seed, first, steps), start=first):
        if step >= last:
            break
        losses.append(accumulate(model, batch))
        factor = rate_at(step, steps)
        optimizer.step(step + 1, factor * MUON_RATE, factor * ADAM_RATE)
        bar.update()
        bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        if (step + 1) % save_every == 0 or step + 1 == last:
            checkpoint.save(optimizer, step + 1)
            if out is not None:
                export(model, tokenizer, out)
    bar.close()
    return losses


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train sprout, the embedded model.")
    parser.add_argument("--work", type=Path, default=Path("build/sprout"), help="checkpoints")
    parser.add_argument(
        "--out", type=Path, default=Path("build/sprout/export"), help="model folder"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="length of the run")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    train(arguments.work, arguments.out, seed=arguments.seed, steps=arguments.steps)
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes: {arguments.out}")


if __name__ == "__main__":
    main()
