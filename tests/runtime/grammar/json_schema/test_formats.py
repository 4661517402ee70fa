"""Formats: valid and invalid examples of each."""

# ruff: noqa: E501 (a case a line)

import json

import pytest
from tests.runtime.grammar.json_schema.naive import accepts

from branchwork.runtime.grammar.json_schema import compile_schema
from branchwork.runtime.grammar.json_schema.formats import FORMATS

format__valid__invalid = [
    ("date", ["2024-02-29", "2000-02-29", "1999-12-31"], ["2023-02-29", "1900-02-29", "2024-04-31", "0000-01-01", "24-01-01", "2024-1-1"]),
    ("time", ["23:59:59Z", "12:00:00.5+02:00", "23:59:60Z"], ["24:00:00Z", "12:00:00", "12:60:00Z", "22:59:60Z", "12:00:00 Z"]),
    ("date-time", ["2024-02-29T12:00:00Z", "2024-02-29t12:00:00.123z"], ["2024-02-30T12:00:00Z", "2024-02-29 12:00:00Z", "2024-02-29T12:00:00"]),
    ("duration", ["P1Y2M3D", "PT1H", "P4W", "P1DT12H"], ["P", "PT", "P1", "P1YT", "P1W2D", "1D", "PT1D"]),
    ("email", ["a@b.de", "a.b+c@x-y.example", '"a b"@c.d', "a@[1.2.3.4]"], ["a", "a@", "@b", "a..b@c", ".a@b", "a@-b.c", "a b@c.d"]),
    ("idn-email", ["실례@실례.테스트", "a@b.c"], ["실례", "a@"]),
    ("hostname", ["a", "www.example.com", "a-b.c", "x" * 63], ["-a", "a-", "a..b", "a_b", "", "x" * 64, "ab--c"]),
    ("idn-hostname", ["straße.de", "실례.테스트", "example.com"], ["-a", "〮실례.테스트", ""]),
    ("ipv4", ["0.0.0.0", "255.255.255.255"], ["256.0.0.0", "1.2.3", "01.2.3.4", "1.2.3.4.5"]),
    ("ipv6", ["::", "::1", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1::8"], ["1:2:3:4:5:6:7", "1::2::3", "12345::", ":1:", "::1%eth0"]),
    ("uri", ["http://a.b/c?d=e#f", "urn:x:y", "mailto:a@b", "http://[::1]:80/", "a:"], ["//a", "a", "http://a b", "http://[::1", "http://a/%zz", "://x"]),
    ("uri-reference", ["", "/a", "//a/b", "a/b", "#f", "http://a"], ["\\a", "a b", "1a:b", "%"]),
    ("iri", ["http://ƒøø.ßår/?∂éœ=πîx#πîüx"], ["/abc", "http://a b"]),
    ("iri-reference", ["/âππ", "#ƒrägmênt"], ["\\\\x"]),
    ("uuid", ["123e4567-e89b-12d3-a456-42661417400F"], ["123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-42661417400g"]),
    ("uri-template", ["http://a/{b}/{+c:3}{?d,e*}", ""], ["{", "{}", "a}", "{a"]),
    ("json-pointer", ["", "/", "/a~0b/~1/0", "/é"], ["a", "/~", "/~2"]),
    ("relative-json-pointer", ["0", "12/a", "1#"], ["-1", "01", "/a", "1#a"]),
    ("regex", ["", "^a(b|c)*$", "[^a-z]{2,}?\\d", "(?=a)", "^[a-z0-5_]{3,16}$", "a{10,12}"], ["(", "a)", "[a", "*", "a{2", "\\", "a{16,3}", "[z-a]"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "valid", "invalid"), format__valid__invalid)
def test_a_format_admits_its_strings_and_no_others(
    name: str, valid: list[str], invalid: list[str]
) -> None:
    rules = compile_schema(json.dumps({"type": "string", "format": name}))
    assert [
        text for text in valid if not accepts(rules, json.dumps(text, ensure_ascii=False))
    ] == []
    assert [text for text in invalid if accepts(rules, json.dumps(text, ensure_ascii=False))] == []


def test_every_known_format_has_an_example() -> None:
    assert {name for name, _, _ in format__valid__invalid} == set(FORMATS)
