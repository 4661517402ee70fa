"""Train sprout: `python -m examples.train_sprout.train`.

The run is a function of its seed and of the number of workers, except for the sums of
floating-point numbers over threads. It stops and goes on at any checkpoint. Under `torchrun` the
workers share the documents of each step; on a busy machine two workers of one thread are much
faster than one of two threads, which wait for each other at every operation.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from examples.train_sprout.batches import Batch, make_batches
from examples.train_sprout.corpus import EARLY, FINAL, LAST, LATE
from examples.train_sprout.export import export, write_json
from examples.train_sprout.model import Llama, Shape
from examples.train_sprout.optimizer import Optimizer
from examples.train_sprout.tokenizer import load_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tqdm import tqdm

STEPS = 3200
DOCUMENTS = 64  # per step, about 6,000 tokens
WARM_UP = 40  # steps
MUON_RATE, ADAM_RATE = 0.016, 0.004


@dataclass(frozen=True, slots=True)
class Stage:
    """What is trained on from a moment on: the shares of skills, documents up to `limit` tokens."""

    start: float
    shares: dict[str, float]
    limit: int


# Short documents and many drills until copying has appeared, then everything in its final share.
STAGES = (
    Stage(0.0, EARLY, 160),
    Stage(0.15, LATE, 320),
    Stage(0.5, LAST, 320),
    Stage(0.72, FINAL, 320),
)


def stage_at(progress: float) -> Stage:
    """The stage of a moment; `progress` goes from 0 to 1."""
    return [stage for stage in STAGES if stage.start <= progress][-1]


def rate_at(step: int, steps: int) -> float:
    """The factor on the learning rates: up, then down to nothing, both in a line."""
    return min((step + 1) / WARM_UP, 1 - step / steps)


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
    weights = batch.weights.flatten()
    places = weights.nonzero().squeeze(1)
    logits = model(batch.ids[:, :-1], places)
    targets = batch.ids[:, 1:].flatten()[places]
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights[places]).sum()


def accumulate(model: Llama, passes: list[Batch]) -> float:
    """Add the gradients of a step's passes; returns the mean loss."""
    total = sum(batch.weights.sum() for batch in passes)
    loss = 0.0
    for batch in passes:
        part = loss_of(model, batch) / total
        torch.autograd.backward(part)
        loss += part.item()
    return loss


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among those that share the run."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Worker:
        """Join the others that `torchrun` has started; alone without it."""
        if "WORLD_SIZE" not in os.environ:
            return cls()
        dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def average(self, parameters: Iterable[torch.Tensor]) -> None:
        """Make every gradient the mean over the workers."""
        if self.count > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([gradient.float().flatten() for gradient in gradients])
            dist.all_reduce(flat)
            means = torch.split(flat / self.count, [gradient.numel() for gradient in gradients])
            for gradient, mean in zip(gradients, means, strict=True):
                gradient.copy_(mean.view_as(gradient))


def prepared(
    tokenizer: Tokenizer, worker: Worker, seed: int, first: int, steps: int
) -> Iterator[list[Batch]]:
    """The passes of the steps from `first` on, each made while the step before is computed."""
    count = DOCUMENTS // worker.count

    def make(step: int) -> list[Batch]:
        stage = stage_at(step / steps)
        name = f"{seed} {step} {worker.rank}"
        return make_batches(tokenizer, stage.shares, count, stage.limit, name)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, first)
        for step in range(first, steps):
            passes = coming.result()
            coming = pool.submit(make, min(step + 1, steps - 1))
            yield passes


def train(
    work: Path,
    out: Path | None,
    *,
    shape: Shape | None = None,
    worker: Worker = Worker(),
    seed: int = 0,
    steps: int = STEPS,
    until: int | None = None,
    save_every: int = 100,
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
    bar = tqdm(total=steps, initial=first, unit="step", disable=worker.rank > 0)
    for step, passes in enumerate(prepared(tokenizer, worker, seed, first, steps), start=first):
        if step >= last:
            break
        losses.append(accumulate(model, passes))
        worker.average(model.parameters())
        factor = rate_at(step, steps)
        optimizer.step(step + 1, factor * MUON_RATE, factor * ADAM_RATE)
        bar.update()
        bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        if worker.rank == 0 and ((step + 1) % save_every == 0 or step + 1 == last):
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
    parser.add_argument("--threads", type=int, default=2, help="threads of each worker")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    train(
        arguments.work,
        arguments.out,
        worker=Worker.join(),
        seed=arguments.seed,
        steps=arguments.steps,
    )
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes: {arguments.out}")


if __name__ == "__main__":
    main()
