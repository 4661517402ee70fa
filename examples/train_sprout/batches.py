"""Documents as rows of token ids with a weight for each, packed to a fixed length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from examples.train_sprout.corpus import stream
from examples.train_sprout.document import END_OF_TEXT, Document
from tokenizers import Tokenizer
from torch import Tensor

GIVEN_WEIGHT = 0.1  # reading a prompt is worth learning a little: it holds repeated words
MAX_MISSES = 24  # documents in a row that fit nowhere, after which the rows count as full


@dataclass(frozen=True, slots=True)
class Batch:
    """ids [rows, length + 1] int64; weights [rows, length] float32, for predicting ids[:, 1:]."""

    ids: Tensor
    weights: Tensor


def weigh(document: Document, offsets: list[tuple[int, int]]) -> list[float]:
    """One weight per token: 1 if any of its text is wanted."""
    wanted, position = [], 0
    for piece in document.pieces:
        wanted += [piece.wanted] * len(piece.text)
        position += len(piece.text)
    return [1.0 if any(wanted[start:end]) else GIVEN_WEIGHT for start, end in offsets]


def make_batch(
    tokenizer: Tokenizer, weights: Mapping[str, float], rows: int, length: int, seed: str
) -> Batch:
    """Pack documents of the stream `seed` into rows; what stays empty has weight 0.

    A document is never cut: one that is longer than a row is left out.
    """
    end: int = tokenizer.token_to_id(END_OF_TEXT)
    ids: list[list[int]] = [[] for _ in range(rows)]
    shares: list[list[float]] = [[] for _ in range(rows)]
    misses = 0
    for document in stream(seed, weights):
        encoding = tokenizer.encode(document.text)
        new_ids = [*encoding.ids, end]
        row = next((r for r in range(rows) if len(ids[r]) + len(new_ids) <= length + 1), None)
        if row is None:
            misses += 1
            if misses == MAX_MISSES:
                break
            continue
        misses = 0
        ids[row] += new_ids
        shares[row] += [*weigh(document, encoding.offsets), 1.0]
    for row_ids, row_shares in zip(ids, shares, strict=True):
        missing = length + 1 - len(row_ids)
        row_ids += [end] * missing
        row_shares += [0.0] * missing
    return Batch(torch.tensor(ids), torch.tensor(shares)[:, 1:])
