"""Exact-match accuracy of a model folder on held-out prompts of every skill.

`python -m examples.train_sprout.evaluate MODEL` prints a table; `--card` also writes it as
`evaluation.json` and as the model card into the folder. `--quantize` asks branchwork's runtime instead of transformers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from examples.train_sprout.card import card
from examples.train_sprout.corpus import EXERCISES, held_out
from examples.train_sprout.document import Document
from examples.train_sprout.export import write_json
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import AutoTokenizer, LlamaForCausalLM

from branchwork.bench.load import Job, run_jobs
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.launcher import launch

ROWS = 100
MARGIN = 16  # tokens after the length of the answer, to see that the model stops


@dataclass(frozen=True, slots=True)
class Score:
    """How many held-out prompts of a skill were answered exactly, and a few that were not."""

    skill: str
    right: int
    asked: int
    misses: tuple[tuple[str, str, str], ...]  # (prompt, wanted, generated)

    @property
    def accuracy(self) -> float:
        """From 0 to 1."""
        return self.right / self.asked


Answers = Callable[[list[Document]], list[str]]
"""The text generated after each document's prompt, greedily, up to an end mark."""


class ByRuntime:
    """A model folder that answers as branchwork's runtime does it."""

    def __init__(self, folder: Path, client: Backend) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.client = client

    def answers(self, documents: list[Document]) -> list[str]:
        """See `Answers`."""
        longest = max(len(self._ids(d.answer)) for d in documents)
        jobs = [Job(tuple(self._ids(d.prompt)), longest + MARGIN) for d in documents]
        run_jobs(self.client, jobs)
        failed = [job.error for job in jobs if job.error is not None]
        assert not failed, failed[0]
        return [self.tokenizer.decode(job.token_ids) for job in jobs]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids


class ByTransformers:
    """A model folder that answers as transformers does it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).train(False)

    def answers(self, documents: list[Document]) -> list[str]:
        """See `Answers`."""
        inputs = self.tokenizer([d.prompt for d in documents], return_tensors="pt", padding=True)
        longest = max(len(self.tokenizer(d.answer).input_ids) for d in documents)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                max_new_tokens=longest + MARGIN,
                do_sample=False,
            )
        generated = output[:, inputs.input_ids.shape[1] :]
        texts: list[str] = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return texts


def score(answers: Answers, skill: str, count: int, seed: int) -> Score:
    """Ask up to `count` held-out prompts of one skill, of similar length together."""
    documents = sorted(held_out(skill, count, seed), key=lambda d: len(d.prompt))
    right, misses = 0, []
    for start in range(0, len(documents), ROWS):
        asked = documents[start : start + ROWS]
        for document, generated in zip(asked, answers(asked), strict=True):
            if document.judge(generated):
                right += 1
            else:
                misses.append((document.prompt, document.answer, generated))
    return Score(skill, right, len(documents), tuple(misses))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure sprout on held-out prompts.")
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--count", type=int, default=100, help="prompts per skill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skill", action="append", help="only this skill (repeatable)")
    parser.add_argument("--misses", type=int, default=0, help="wrong answers to show per skill")
    parser.add_argument("--card", action="store_true", help="write evaluation.json and README.md")
    parser.add_argument("--quantize", choices=["none", "int8", "int4"], help="by the runtime")
    arguments = parser.parse_args()
    skills = arguments.skill or list(EXERCISES)

    def scored(answers: Answers) -> list[Score]:
        count, seed = arguments.count, arguments.seed
        return [score(answers, skill, count, seed) for skill in tqdm(skills, leave=False)]

    if arguments.quantize is None:
        scores = scored(ByTransformers(arguments.model).answers)
    else:
        with launch(model=str(arguments.model), quantize=arguments.quantize) as runtime:
            scores = scored(ByRuntime(arguments.model, runtime.connect()).answers)
    for one in scores:
        print(f"{one.skill:24s} {one.accuracy:6.1%}  ({one.right}/{one.asked})")
        for prompt, wanted, generated in one.misses[: arguments.misses]:
            print(f"{prompt}\n    wanted    {wanted!r}\n    generated {generated!r}\n")
    if arguments.card:
        rows = [{k: v for k, v in asdict(s).items() if k != "misses"} for s in scores]
        write_json(arguments.model / "evaluation.json", rows)
        (arguments.model / "README.md").write_text(card(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
