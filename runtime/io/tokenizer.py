"""The model's tokenizer: texts to tokens, and tokens to the bytes that they stand for.

It is the folder's tokenizer.json, run by the `tokenizers` library. What a branch holds stays as it is, so a text is
encoded as the continuation that it is: what a tokenizer puts before a text (BOS, SentencePiece's blank) comes at the
start of a branch only.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as HfTokenizer

from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.io.passages import Passage, SpecialToken, SpecialTokens
from branchwork.runtime.io.token_bytes import BytesIndex, read_token_bytes
from branchwork.runtime.wire.errors import ModelError

# In vocabularies that put a blank before a text, a line feed is a token of its own that merges with nothing.
_SENTINEL = "\n"
_CACHED_TEXTS = 16_384


class Tokenizer:
    """One model's tokenizer. Nothing in it changes, so any thread may use it.

    `token_bytes[t]` is what token t stands for, b"" for special tokens; `settings` is tokenizer_config.json.
    """

    def __init__(self, hf: HfTokenizer, settings: Mapping[str, Any], vocab_size: int) -> None:
        hf.no_truncation()
        hf.no_padding()
        self._hf = hf
        self._vocab_size = vocab_size
        added = hf.get_added_tokens_decoder().items()
        specials = {i: token for i, token in added if token.special and i < vocab_size}
        self.special_names = {i: str(token.content) for i, token in specials.items()}
        self.special_tokens = SpecialTokens(
            {t.content: SpecialToken(i, t.lstrip, t.rstrip) for i, t in specials.items()}
        )
        self.token_bytes = read_token_bytes(hf, msgspec.json.decode(hf.to_str()), vocab_size)
        self._index = BytesIndex(self.token_bytes)
        self._blank_after_special = self._puts_blank_after_special()
        # A user's words are no special tokens; those that are meant are cut out before.
        hf.encode_special_tokens = True
        self._sentinel_ids = self._plain(_SENTINEL)
        self._blank_before_text = self._join(self._plain("a")) != b"a"
        self.bos_ids = self._find_bos_ids()
        self.names = {
            name: _name(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token")
        }
        self._cached_bytes = lru_cache(_CACHED_TEXTS)(self._encode_bytes)

    @classmethod
    def load(cls, folder: Path, vocab_size: int) -> "Tokenizer":
        """The tokenizer in a model's folder. Raises ModelError."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{folder} has no tokenizer.json")
        try:
            hf = HfTokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ModelError(f"{path}: not a tokenizer ({error})") from error
        return cls(hf, read_settings(folder), vocab_size)

    def vocabulary(self, eos_ids: Sequence[int]) -> Vocabulary:
        """The tokens as bytes, for grammars. The model's `eos_ids` and the tokenizer's own EOS end a sequence."""
        eos_name = self.names["eos_token"]
        own = self._hf.token_to_id(eos_name) if eos_name else None
        ends = [i for i in (*eos_ids, own) if i is not None and i < self._vocab_size]
        bos_id = self.bos_ids[0] if self.bos_ids else None
        return Vocabulary(self.token_bytes, tuple(dict.fromkeys(ends)), self._vocab_size, bos_id)

    def encode(self, passages: Sequence[Passage], at_start: bool) -> tuple[int, ...]:
        """Tokens of the joined passages, as the continuation of a branch or, `at_start`, as its beginning.

        A beginning gets the tokenizer's own BOS, unless special tokens are meant there: a chat writes its own.
        """
        token_ids: list[int] = []
        for index, part in enumerate(self.special_tokens.split(passages)):
            if isinstance(part, int):
                token_ids.append(part)
            elif index == 0:
                token_ids += (
                    self._begin(part, passages[0].special) if at_start else self._go_on(part)
                )
            else:
                token_ids += self._plain(part) if self._blank_after_special else self._go_on(part)
        return tuple(token_ids)

    def encode_bytes(self, data: bytes) -> tuple[int, ...]:
        """Tokens whose bytes, joined, are `data` exactly: as the tokenizer would where it is text, and no special ones.

        Raises ValueError where the vocabulary has no token for a byte.
        """
        return self._cached_bytes(data)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones as they are written; bytes that are no UTF-8 become U+FFFD."""
        table, names = self.token_bytes, self.special_names
        known = (i for i in token_ids if i < len(table))
        data = b"".join(names[i].encode() if i in names else table[i] for i in known)
        return data.decode("utf-8", "replace")

    def _plain(self, text: str) -> list[int]:
        # The batch form lets go of the interpreter while it works, which the plain one does not.
        return list(self._hf.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def _begin(self, text: str, is_chat: bool) -> list[int]:
        return self._plain(text) if is_chat else [*self.bos_ids, *self._plain(text)]

    def _go_on(self, text: str) -> list[int]:
        """Tokens of a text that follows others, so without the blank that a tokenizer puts before a text."""
        if not self._blank_before_text:
            return self._plain(text)
        head = len(self._sentinel_ids)
        token_ids = self._plain(_SENTINEL + text)
        return token_ids[head:] if token_ids[:head] == self._sentinel_ids else self._plain(text)

    def _encode_bytes(self, data: bytes) -> tuple[int, ...]:
        try:
            token_ids = self._go_on(data.decode())
        except UnicodeDecodeError as error:
            start, end = error.start, error.end
            middle = self._index.spell(data[start:end])
            rest = self._encode_bytes(data[end:]) if end < len(data) else ()
            return (*(self._encode_bytes(data[:start]) if start else ()), *middle, *rest)
        if self._join(token_ids) != data:  # a normalizer has changed it
            token_ids = self._index.spell(data)
        return tuple(token_ids)

    def _join(self, token_ids: Sequence[int]) -> bytes:
        return b"".join(self.token_bytes[i] for i in token_ids)

    def _find_bos_ids(self) -> list[int]:
        encoding = self._hf.encode("a", add_special_tokens=True)
        mask = [*encoding.special_tokens_mask, 0]
        return list(encoding.ids[: mask.index(0)])

    def _puts_blank_after_special(self) -> bool:
        """Whether each text between special tokens gets a blank (SentencePiece as it was), or only the first one."""
        name = next(iter(self.special_names.values()), None)
        if name is None:
            return False
        self._hf.encode_special_tokens = False
        return self._join(self._plain(name + "a")) == b" a"


def read_settings(folder: Path) -> Mapping[str, Any]:
    """The folder's tokenizer_config.json; empty where there is none. Raises ModelError."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: {error}") from error


def _name(value: Any) -> str | None:
    """A token as tokenizer_config.json names it: its text, or an object that holds it."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None
