"""Which bytes each token stands for, read from the vocabulary once; and tokens for any bytes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as HfTokenizer


def read_token_bytes(
    hf: HfTokenizer, description: Mapping[str, Any], size: int
) -> tuple[bytes, ...]:
    """The bytes of each token below `size`: b"" for special tokens and for ids without a token.

    `description` is the tokenizer.json. Three families of vocabularies: byte-level BPE (each character stands for a
    byte: Radford et al. 2019, section 2.2), SentencePiece (U+2581 for a blank, <0x0A> for a byte), and plain texts.
    """
    spell = _speller(description)
    table = [b""] * min(size, 1 + max(hf.get_vocab().values(), default=-1))
    for text, token_id in hf.get_vocab(with_added_tokens=False).items():
        if token_id < len(table):
            table[token_id] = spell(text)
    for token_id, token in hf.get_added_tokens_decoder().items():
        if token_id < len(table):
            table[token_id] = b"" if token.special else token.content.encode()
    return tuple(table)


class BytesIndex:
    """Tokens by their bytes, to spell what is no whole text."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._ids: dict[bytes, int] = {}
        for token_id, data in enumerate(token_bytes):
            if data:
                self._ids.setdefault(data, token_id)
        self._longest = max(map(len, self._ids), default=0)

    def spell(self, data: bytes) -> list[int]:
        """Tokens whose bytes, joined, are `data`: at each place the longest one. Raises ValueError if there is none."""
        token_ids, start = [], 0
        while start < len(data):
            for end in range(min(len(data), start + self._longest), start, -1):
                token_id = self._ids.get(data[start:end])
                if token_id is not None:
                    token_ids.append(token_id)
                    start = end
                    break
            else:
                raise ValueError(f"no token for the byte {data[start]:#04x}")
        return token_ids


def _speller(description: Mapping[str, Any]) -> Callable[[str], bytes]:
    kinds = {*_kinds(description.get("decoder")), *_kinds(description.get("pre_tokenizer"))}
    if "ByteLevel" in kinds:
        return _spell_byte_level
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return _spell_sentence_piece
    return str.encode


def _kinds(part: Any) -> list[str]:
    """The types of a part of tokenizer.json and of all that it holds."""
    if isinstance(part, Mapping):
        own = [part["type"]] if isinstance(part.get("type"), str) else []
        return own + [kind for value in part.values() for kind in _kinds(value)]
    if isinstance(part, list):
        return [kind for value in part for kind in _kinds(value)]
    return []


def _byte_of_character() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()


def _spell_byte_level(text: str) -> bytes:
    try:
        return bytes([_BYTE_OF_CHARACTER[character] for character in text])
    except KeyError:
        return text.encode()


def _spell_sentence_piece(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            return text.encode()
    return text.replace("\u2581", " ").encode()
