"""Documents as rows of token ids with a weight for each, in passes of similar length."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from examples.train_sprout.corpus import stream
from examples.train_sprout.document import END_OF_TEXT, Document
from tokenizers import Tokenizer
from torch import Tensor

REPEATED_WEIGHT = 0.1  # of a prompt's token that has followed the same one before
TYPICAL_ANSWER = 8  # tokens; an answer of this length has weight 1 per token
PASS_TOKENS = 2048  # activations of a pass stay in the second-level cache
FILLED = 0.7  # the shortest row of a pass, as a part of the longest
ROUND = 16  # rows are padded to a multiple of this


@dataclass(frozen=True, slots=True)
class Batch:
    """ids [rows, length + 1] int64; weights [rows, length] float32, for predicting ids[:, 1:]."""

    ids: Tensor
    weights: Tensor


def weigh(document: Document, ids: list[int], offsets: list[tuple[int, int]]) -> list[float]:
    """One weight per token; a wanted text of n tokens weighs as the root of n.

    So an answer of one word is not lost beside one of forty tokens. A token on the edge of two
    pieces belongs to the wanted one. A prompt's names are noise and weigh nothing, until they are
    repeated: then they are exercises in copying.
    """
    weights = []
    pairs: set[tuple[int, int]] = set()
    for pair in zip([-1, *ids], ids, strict=False):
        weights.append(REPEATED_WEIGHT if pair in pairs else 0.0)
        pairs.add(pair)
    position = 0
    for piece in document.pieces:
        start, position = position, position + len(piece.text)
        if piece.wanted:
            inside = [i for i, (a, b) in enumerate(offsets) if a < position and b > start]
            for i in inside:
                weights[i] = math.sqrt(TYPICAL_ANSWER / len(inside))
    return weights


def pad(rows: list[tuple[list[int], list[float]]], end: int) -> Batch:
    """Rows of one pass; what is missing at their ends has weight 0."""
    longest = max(len(ids) for ids, _ in rows) - 1
    length = math.ceil(longest / ROUND) * ROUND + 1
    ids = [row + [end] * (length - len(row)) for row, _ in rows]
    weights = [row + [0.0] * (length - len(row)) for _, row in rows]
    return Batch(torch.tensor(ids), torch.tensor(weights)[:, 1:])


def make_batches(
    tokenizer: Tokenizer, shares: Mapping[str, float], count: int, limit: int, seed: str
) -> list[Batch]:
    """The passes of one step: `count` documents of the stream `seed`, sorted by length.

    Documents of more than `limit` tokens are left out.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert end is not None, "the tokenizer has no end of text"
    rows = []
    for document in itertools.islice(stream(seed, shares), count):
        encoding = tokenizer.encode(document.text)
        if len(encoding.ids) <= limit:
            weights = weigh(document, encoding.ids, encoding.offsets)
            rows.append(([*encoding.ids, end], [*weights, weights[-1]]))
    rows.sort(key=lambda row: len(row[0]))
    passes: list[Batch] = []
    while rows:
        longest = len(rows[-1][0])
        taken = max(1, PASS_TOKENS // longest)
        while len(rows[max(0, len(rows) - taken)][0]) < FILLED * longest:
            taken -= 1
        passes.append(pad(rows[-taken:], end))
        del rows[-taken:]
    return passes
