"""Factories of `SamplingRows`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from branchwork.kernels.sampling import SamplingRows

VOCAB = 100


@dataclass
class Row:
    """One row's settings by name, with the plainest as defaults."""

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    seed: int = 0
    position: int = 0
    allowed: tuple[int, ...] | None = None
    edits: tuple[tuple[int, float], ...] = ()
    context: tuple[int, ...] = ()
    generated: tuple[int, ...] = ()


def make_rows(*rows: Row, vocab: int = VOCAB) -> SamplingRows:
    def floats(name: str) -> Any:
        return np.array([getattr(row, name) for row in rows], np.float32)

    def ragged(name: str) -> tuple[Any, Any]:
        lists = [getattr(row, name) for row in rows]
        starts = np.cumsum([0, *map(len, lists)]).astype(np.int32)
        return starts, np.array([x for items in lists for x in items])

    mask = np.zeros((len(rows), -(-vocab // 32) * 32), np.uint8)
    for line, row in zip(mask, rows, strict=True):
        line[list(row.allowed or ())] = 1
    edit_start, edits = ragged("edits")
    edits = edits.reshape(-1, 2)
    context_start, context = ragged("context")
    generated_start, generated = ragged("generated")
    penalised = [r.repetition != 1 or r.frequency != 0 or r.presence != 0 for r in rows]
    return SamplingRows(
        temperature=floats("temperature"),
        top_p=floats("top_p"),
        min_p=floats("min_p"),
        top_k=np.array([row.top_k for row in rows], np.int32),
        repetition_penalty=floats("repetition"),
        frequency_penalty=floats("frequency"),
        presence_penalty=floats("presence"),
        seed=np.array([row.seed for row in rows], np.int64),
        position=np.array([row.position for row in rows], np.int64),
        has_mask=np.array([row.allowed is not None for row in rows]),
        has_penalties=np.array(penalised),
        mask=np.packbits(mask, axis=1, bitorder="little").view(np.int32),
        edit_start=edit_start,
        edit_ids=edits[:, 0].astype(np.int32),
        edit_values=edits[:, 1].astype(np.float32),
        context_start=context_start,
        context_ids=context.astype(np.int32),
        generated_start=generated_start,
        generated_ids=generated.astype(np.int32),
    )
