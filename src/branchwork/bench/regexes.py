"""31 regexes, from everyday to adversarial: (name, pattern, texts it matches as a whole, texts it does not)."""

import random

_random = random.Random(7)
_WORDS = sorted(
    {
        "".join(_random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(_random.randint(4, 14)))
        for _ in range(520)
    }
)[:500]
_PHRASES = sorted({" ".join(_random.choice(_WORDS) for _ in range(4)) for _ in range(2100)})[:2000]
CASES: list[tuple[str, str, list[str], list[str]]] = [
    (
        "date",
        r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
        ["2024-02-29", "1999-12-31"],
        ["2024-13-01", "24-01-01", "2024-01-01x"],
    ),
    (
        "datetime",
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})",
        ["2024-02-29T12:00:00Z", "2024-02-29T12:00:00.123+02:00"],
        ["2024-02-29 12:00:00Z"],
    ),
    (
        "email",
        r"[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,24}",
        ["john.doe+x@mail.example.com"],
        ["john.doe", "a@b", "@x.com"],
    ),
    (
        "ipv4",
        r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
        ["192.168.1.254", "8.8.8.8"],
        ["256.1.1.1", "1.2.3"],
    ),
    (
        "uuid",
        r"[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
        ["123e4567-e89b-12d3-a456-426614174000"],
        ["123e4567e89b12d3a456426614174000"],
    ),
    (
        "phone_us",
        r"(\+1 )?\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}",
        ["+1 (555) 123-4567", "555-123-4567"],
        ["5551234567"],
    ),
    (
        "url",
        r"https?://([a-z0-9-]+\.)+[a-z]{2,10}(:[0-9]{1,5})?(/[a-zA-Z0-9._~%!$&\'()*+,;=:@-]*)*(\?[a-zA-Z0-9=&_%-]*)?",
        ["https://www.example.com:8080/a/b-c?x=1&y=2"],
        ["ftp://x.com", "https://x"],
    ),
    (
        "semver",
        r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?",
        ["1.12.0-rc.1", "0.0.1"],
        ["1.2", "01.2.3"],
    ),
    (
        "float",
        r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?",
        ["-12.5e+10", "0", "3.14159"],
        ["01", ".5"],
    ),
    ("hexcolor", r"#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", ["#ff00AA"], ["#ff00", "ff00aa"]),
    ("choice3", r"(positive|negative|neutral)", ["neutral", "positive"], ["pos", "neutrals"]),
    (
        "choice500",
        "(" + "|".join(_WORDS) + ")",
        [_WORDS[3], _WORDS[499]],
        ["zzzzqq", _WORDS[3] + "x"],
    ),
    (
        "choice2000_PHRASESases",
        "(" + "|".join(_PHRASES) + ")",
        [_PHRASES[3], _PHRASES[-1]],
        ["zzzzqq", _PHRASES[3][:-1]],
    ),
    ("count_1_200", r"[a-z]{1,200}", ["hello", "a" * 200], ["a" * 201, "Hello"]),
    (
        "count_0_1000_any",
        r'"[^"\\\x00-\x1f]{0,1000}"',
        ['"' + "some words here " * 50 + '"'],
        ['"' + "x" * 1001 + '"', "abc"],
    ),
    ("nested_50_50", r"([a-z]{0,50},){0,50}", ["abc,de,f," * 3], ["abc", "x" * 51 + ","]),
    ("nested_amb", r"((ab?c?){1,20}x){1,20}", ["abcxabx", "aaabcx" * 5], ["x", "abc"]),
    ("words_1_30", r"([A-Z][a-z]+ ){1,30}[A-Z][a-z]+\.", ["Hello World Again."], ["hello world."]),
    ("abb", r"(a|b)*abb", ["aababb", "abb"], ["ab", "abba"]),
    ("dfa_blowup_12", r"(a|b)*a(a|b){12}", ["a" + "b" * 12, "ab" * 20 + "a"], ["b" * 13]),
    ("dfa_blowup_20", r"(a|b)*a(a|b){20}", ["a" + "b" * 20], ["b" * 21]),
    ("catastrophic_plus", r"(a+)+b", ["aaaaab"], ["aaaa", "b"]),
    (
        "catastrophic_email",
        r"([a-zA-Z0-9]+\.?)+@([a-zA-Z0-9]+\.?)+",
        ["a.b.c@d.e"],
        ["@a", "a..b@c"],
    ),
    ("unicode_cjk", r"[\u4e00-\u9fff]{1,40}", ["日本語漢字", "中文"], ["abc", "ひらがな"]),
    ("unicode_prop_L", r"\p{L}+( \p{L}+)*", ["Ünïcödé Straße", "мир"], ["a1", " x"]),
    ("dot_star", r".*", ["anything goes 日本 {}[]"], ["a\nb"]),
    ("any_then_literal", r"(.|\n)*END", ["free text\nthen END"], ["free text"]),
    (
        "json_like",
        r'\{"name": "[^"\\\n]{1,40}", "age": [0-9]{1,3}, "tags": \[("[a-z]{1,12}"(, "[a-z]{1,12}"){0,9})?\]\}',
        ['{"name": "Ann Lee", "age": 31, "tags": ["x", "yy"]}'],
        ['{"name": "", "age": 31, "tags": []}'],
    ),
    (
        "chat_react",
        r"(Thought: [^\n]+\nAction: (search|lookup|finish)\[[^\]\n]+\]\n){1,8}",
        ["Thought: need info\nAction: search[foo bar]\n"],
        ["Thought: x\nAction: run[foo]\n"],
    ),
    (
        "sql_select",
        r"SELECT (\*|[a-z_]+(, [a-z_]+)*) FROM [a-z_]+( WHERE [a-z_]+ (=|<|>|<=|>=) (\'[^\']*\'|[0-9]+))?;",
        ["SELECT a, b_c FROM t WHERE x >= 10;"],
        ["SELECT FROM t;"],
    ),
    (
        "alt_shared_prefix",
        "(" + "|".join(f"item_{i:04d}" for i in range(1000)) + ")",
        ["item_0999"],
        ["item_1000", "item_99"],
    ),
]
