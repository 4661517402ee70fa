import numpy as np
from tests.make_engine import (
    NaiveGrammar,
    bytes_of,
    done,
    generate,
    make_runtime,
    opened,
    text,
    tokens_of,
)

from branchwork.runtime.engine.healing import HealedMatcher, SortedTokens
from branchwork.runtime.mock import mock_vocabulary

VOCABULARY = mock_vocabulary(("http", "https", "://", ":", ":/", "//"))
TOKENS = SortedTokens(VOCABULARY)


def allowed(matcher: HealedMatcher) -> set[bytes]:
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    return {VOCABULARY.token_bytes[token] for token in np.flatnonzero(bits).tolist()}


def test_tokens_are_found_by_their_first_bytes() -> None:
    table = VOCABULARY.token_bytes
    assert [table[token] for token in TOKENS.exactly(b":")] == [b":", b":"]
    assert TOKENS.exactly(b"zzz") == ()
    after = TOKENS.continuations(b"http")
    assert [table[token] for token in after.exact] == [b"http"]
    assert [(table[t], table[r]) for t, r in zip(after.longer, after.rests, strict=True)] == [
        (b"https", b"s")
    ]
    after = TOKENS.continuations(b"ht")
    assert [table[token] for token in after.others] == [b"http", b"https"]
    assert after.other_rests == (b"tp", b"tps")


def test_a_healed_mask_equals_asking_the_constraint_for_every_token() -> None:
    for pattern in ("//x", "[a-z]+", "tp?s?:", "(ttp|)s://y"):
        for pending in (b"h", b"ht", b":", b"http"):
            grammar = NaiveGrammar(pattern, VOCABULARY)
            expected = set()
            for data in VOCABULARY.token_bytes:
                if (data and pending.startswith(data)) or (
                    data.startswith(pending) and grammar.start().accept_bytes(data[len(pending) :])
                ):
                    expected.add(data)
            assert allowed(HealedMatcher(pending, grammar.start(), TOKENS)) == expected


def test_pending_bytes_may_be_written_in_parts_or_passed() -> None:
    matcher = HealedMatcher(b"http", None, TOKENS)
    assert allowed(matcher) == {b"h", b"http", b"https"}
    assert matcher.accept_bytes(b"ht")
    assert allowed(matcher) == {b"t"}
    assert not matcher.accept_bytes(b"x")
    assert matcher.accept_bytes(b"tps")
    assert matcher.pending == b""


def test_what_goes_past_the_boundary_must_fit_the_constraint() -> None:
    inner = NaiveGrammar("//x", VOCABULARY).start()
    matcher = HealedMatcher(b":", inner, TOKENS)
    assert allowed(matcher) == {b":", b"://", b":/"}
    other = HealedMatcher(b":", NaiveGrammar("x", VOCABULARY).start(), TOKENS)
    assert allowed(other) == {b":"}
    assert not other.accept_bytes(b":/")
    assert other.pending == b":"


def test_a_copy_goes_its_own_way() -> None:
    matcher = HealedMatcher(b"ab", NaiveGrammar("cd", VOCABULARY).start(), TOKENS)
    copy = matcher.copy()
    assert copy.accept_bytes(b"abcd")
    assert copy.outlook().must_end
    assert matcher.pending == b"ab"
    assert matcher.closing() == b"abcd"
    assert matcher.forced() == b""
    assert not matcher.can_end()


def test_a_healed_slot_may_choose_a_longer_token_and_its_text_begins_after_the_boundary() -> None:
    runtime = make_runtime()
    colons = runtime.tokenizer.encode_bytes(b"://")
    runtime.put(
        opened(1),
        text(1, "see http:"),
        generate(1, options={"heal": True}, logit_bias=((colons[0], 100.0),), max_tokens=1),
    )
    final = done(runtime.run())
    assert final.text == "//"
    assert tokens_of(runtime, 1)[-1] == colons[0]
    assert final.usage.prompt == len(runtime.tokenizer.encode_bytes(b"see http:"))


def test_a_healed_slot_keeps_its_constraint() -> None:
    for seed in range(10):
        runtime = make_runtime()
        slot = generate(
            1,
            grammar="[a-z]{2}!",
            options={"heal": True},
            temperature=1.5,
            seed=seed,
            max_tokens=30,
        )
        runtime.put(opened(1), text(1, "see the"), slot, generate(1, "next"))
        events = runtime.run()
        final = done(events)
        assert len(final.text) == 3
        assert final.text.endswith("!")
        written = bytes_of(runtime, tokens_of(runtime, 1))
        assert written.startswith(b"see the" + final.text.encode())


def test_a_stop_in_a_healed_slot_cuts_behind_the_boundary() -> None:
    runtime = make_runtime()
    slot = generate(1, grammar="xyz!", options={"heal": True}, stop=("z",), max_tokens=20)
    runtime.put(opened(1), text(1, "ab"), slot)
    assert done(runtime.run()).text == "xy"
    assert bytes_of(runtime, tokens_of(runtime, 1)) == b"abxy"
