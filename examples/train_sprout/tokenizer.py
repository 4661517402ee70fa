"""Sprout's tokenizer: byte-level BPE in which a copied word is the same tokens everywhere.

A blank is a token of its own unless a function word follows it, so `Ada` after a blank, a quote
or a line's start is the same; digits stand apart; the glue of compact JSON is one token.
"""

# ruff: noqa: SIM905  (a list of words reads better as text)

from __future__ import annotations

import itertools
from pathlib import Path

from examples.train_sprout.corpus import LATE, stream
from examples.train_sprout.document import END_OF_TEXT, IM_END, IM_START
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 1536
FUNCTION_WORDS = """a about an and answer are as at by can city country does do for from has have he how I in
is it its many me my need not of old on one or she than that the their they this to two use uses was what which who with
years you your""".split()

PRE_TOKENS = "|".join(
    (
        r"</?tool(?:s|_call|_response)>",
        rf" (?:{'|'.join(FUNCTION_WORDS)})(?![\p{{L}}\d])",
        r"\p{L}+",
        r"\d",
        r'"[\]}]*[:,] [\[{]*"',  # between two members: `", "`, `": {"`, `"], "`
        r'[\]}]+, [\[{]*"',
        r', "',
        r'": ',  # before a number or a boolean
        r'[\[{]+"',
        r'"?[\]}]+',
        r"[^\p{L}\d]",
    )
)


def train_tokenizer(documents: int = 20_000, seed: int = 0) -> Tokenizer:
    """Learn the merges from the corpus. The same arguments give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (d.text for d in itertools.islice(stream(f"tokenizer {seed}", LATE), documents))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, made and written there if the file is missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer().save(str(path))
    return Tokenizer.from_file(str(path))
