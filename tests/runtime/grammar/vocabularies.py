"""Two small vocabularies: every byte with a few words, and pieces of JSON with characters cut in the middle."""

import numpy as np

from branchwork.runtime.grammar.interface import Matcher, Vocabulary

_WORDS = (
    "ab",
    "abb",
    "ba",
    "aa",
    "aab",
    "abc",
    "bc",
    "ca",
    "b,a",
    "a,",
    '"a',
    'a"',
    "\n\n",
    "xx",
    "yx",
    "xyb",
    "  ab",
    "aé日b",
    "日本\u3000é",
)
_JSON = (
    '{"', '"}', '", "', '": ', '": "', "}, {", "[[", "]]", ", ", '"a"', '"b": 1', "true", "false", "null",
    "10", "-1", "0.5", '{"a": ', "}]", '"]', ' "', "aé", "é\"", "日本", "\\n", '\\"',
)  # fmt: skip
_CUT = (
    "é".encode()[:1],
    "é".encode()[1:],
    "日".encode()[:2],
    "日".encode()[1:] + b'"',
    b'a"' + b"\xc3",
)

EOS = 256


def letters() -> Vocabulary:
    """All bytes, an end of sequence, a special token, some words (one of them twice)."""
    words = tuple(word.encode() for word in (*_WORDS, "ab"))
    single = tuple(bytes((byte,)) for byte in range(256))
    return Vocabulary((*single, b"", b"", *words), (EOS,), 300)


def json_pieces() -> Vocabulary:
    """All bytes, an end of sequence, pieces of JSON, characters cut in the middle."""
    pieces = tuple(piece.encode() for piece in _JSON)
    single = tuple(bytes((byte,)) for byte in range(256))
    return Vocabulary((*single, b"", *pieces, *_CUT), (EOS,), 310)


def allowed(matcher: Matcher, vocabulary: Vocabulary) -> set[int]:
    """The tokens of the matcher's mask."""
    row = matcher.mask()
    assert len(row) == vocabulary.mask_words
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())
