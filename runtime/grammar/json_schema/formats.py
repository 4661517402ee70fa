"""The formats of JSON Schema as languages of strings, each as exact as a regular language can be.

Where a format is more than regular (leap seconds under an offset, IDNA, nested groups of a regex, hosts of nearly 253
characters) the language is a subset: what is written is always valid.
"""

import string

from branchwork.runtime.grammar.json_schema.language import Language, Pattern

_DATE = (
    r"(?:(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
# RFC 3339, §5.6. A leap second is only valid at midnight UTC.
_HOUR_MINUTE = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = (
    rf"(?:{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:[Zz]|[+-]{_HOUR_MINUTE})"
    r"|23:59:60(?:\.[0-9]{1,9})?(?:[Zz]|[+-]00:00))"
)
_NUMBER = "[0-9]{1,9}"
_SECOND = f"{_NUMBER}S"
_MINUTE = f"{_NUMBER}M(?:{_SECOND})?"
_DURATION_TIME = f"T(?:{_NUMBER}H(?:{_MINUTE})?|{_MINUTE}|{_SECOND})"
_MONTH = f"{_NUMBER}M(?:{_NUMBER}D)?"
_DURATION_DATE = f"(?:{_NUMBER}D|{_MONTH}|{_NUMBER}Y(?:{_MONTH})?)"
_DURATION = f"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|{_NUMBER}W)"

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_H16 = "[0-9A-Fa-f]{1,4}"
_LS32 = f"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = (
    f"(?:(?:{_H16}:){{6}}{_LS32}|::(?:{_H16}:){{5}}{_LS32}|(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}"
    f"|(?:(?:{_H16}:){{0,1}}{_H16})?::(?:{_H16}:){{3}}{_LS32}|(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}"
    f"|(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}|(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}"
    f"|(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}|(?:(?:{_H16}:){{0,6}}{_H16})?::)"
)


def _host(letter: str, longest: int, most: int) -> str:
    """Up to `most` labels of up to `longest` characters; none has `--` in third place, which is reserved."""
    inner = f"{letter[:-1]}-]"
    start = f"{letter}{inner}(?:{letter}{inner}|-{letter})"
    label = f"(?:{letter}|{letter}{inner}{{0,2}}{letter}|{start}{inner}{{0,{longest - 5}}}{letter})"
    return rf"(?:{label}(?:\.{label}){{0,{most - 1}}})"


# Labels have at most 63 characters and a name 253: two sets of names in which neither can be exceeded.
_HOSTNAME = "|".join(_host("[A-Za-z0-9]", *bounds) for bounds in ((63, 3), (30, 8)))
_SCRIPTS = (
    "[a-z0-9\u00df-\u00f6\u00f8-\u00ff\u03ac-\u03c9\u0430-\u045f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5"
    "\uac00-\ud7a3]"
)
_IDN_HOSTNAME = rf"{_SCRIPTS}{{1,12}}(?:\.{_SCRIPTS}{{1,12}}){{0,3}}"
_MAIL_HOST = _host("[A-Za-z0-9]", 40, 6)

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_UNICODE_ATOM = _ATOM[:-2] + "\u00a1-\ud7ff\uf900-\ufdcf\ufdf0-\uffef-]"
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'


def _mailbox(atom: str, host: str) -> str:
    return rf"(?:{atom}+(?:\.{atom}+)*|{_QUOTED})@(?:{host}|\[{_IPV4}\]|\[IPv6:{_IPV6}\])"


def _uri(more: str, private: str, relative: bool) -> str:
    """RFC 3986, appendix A; `more` characters besides the unreserved ones make it RFC 3987."""
    escaped = "%[0-9A-Fa-f]{2}"
    free = rf"A-Za-z0-9._~{more}-"
    sub = "!$&'()*+,;="
    char = rf"(?:[{sub}:@{free}]|{escaped})"
    user = rf"(?:[{sub}:{free}]|{escaped})*@"
    future = rf"[vV][0-9A-Fa-f]+\.[{sub}:A-Za-z0-9._~-]+"
    host = rf"(?:\[(?:{_IPV6}|{future})\]|(?:[{sub}{free}]|{escaped})*)"
    path = f"(?:/{char}*)*"
    rooted = f"//(?:{user})?{host}(?::[0-9]*)?{path}|/(?:{char}+{path})?"
    tail = (
        rf"(?:\?(?:[{sub}:@/?{private}{free}]|{escaped})*)?(?:#(?:[{sub}:@/?{free}]|{escaped})*)?"
    )
    absolute = f"[A-Za-z][A-Za-z0-9+.-]*:(?:{rooted}|{char}+{path})?{tail}"
    if not relative:
        return absolute
    first = rf"(?:[{sub}@{free}]|{escaped})+"
    return f"(?:{absolute}|(?:{rooted}|{first}{path})?{tail})"


# RFC 3987, without the supplementary planes' gaps.
_UCS = "\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef\U00010000-\U0001fffd\U00020000-\U0002fffd"
_PRIVATE = "\ue000-\uf8ff"

_POINTER = r"(?:/(?:[^/~]|~[01])*)*"
_VARIABLE = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})(?:\.?(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2}))*(?::[1-9][0-9]{0,3}|\*)?"
_URI_TEMPLATE = (
    r"(?:[!#$&(-;=?-\[\]_a-z~\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef]|%[0-9A-Fa-f]{2}"
    rf"|\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
)


def _in_order(chars: str, join: str) -> str:
    """Two of `chars`, which stand in their order and without gaps, the second not before the first."""
    return "|".join(f"{char}{join}[{char}-{chars[-1]}]" for char in chars)


def _counts() -> str:
    """Most of the bounds {n,m} of a quantifier with n ≤ m, n below 100 and m below 1,000."""
    teens = "|".join(f"1{one},1[{one}-9]" for one in range(10))
    later_ten = "|".join(f"{ten}[0-9],[{ten + 1}-9][0-9]" for ten in range(1, 9))
    longer = "[0-9],[1-9][0-9]{1,2}|[1-9][0-9],[1-9][0-9]{2}"
    return f"{_in_order(string.digits, ',')}|{teens}|{later_ten}|{longer}"


def _regex() -> str:
    """ECMA-262 regular expressions with groups nested twice at most and without back references."""
    quantifier = rf"(?:(?:[*+?]|\{{(?:[0-9]{{1,3}},?|{_counts()})\}})\??)?"
    escape = r"\\(?:[dDwWsStrnvf0\^$.*+?()\[\]{}|/-]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|c[A-Za-z])"
    class_char = r"(?:[^\]\[\\-]|\\[dDwWsStrnvf0\^$.*+?()\[\]{}|/-])"
    span = f"(?:a-z|A-Z|a-f|A-F|{_in_order(string.digits, '-')})"
    atom = rf"(?:[^\^$\\.*+?()\[\]{{}}|]|\.|{escape}|\[\^?(?:{span}|{class_char})*-?\])"
    boundary = r"(?:\^|\$|\\[bB])"
    inner = f"(?:{atom}{quantifier}|{boundary})*"
    for _ in range(2):
        group = rf"\((?:\?[:=!])?{inner}(?:\|{inner})*\)"
        inner = f"(?:(?:{atom}|{group}){quantifier}|{boundary})*"
    return rf"{inner}(?:\|{inner})*"


def _whole(source: str) -> Language:
    return Pattern(f"^(?:{source})$")


FORMATS: dict[str, Language] = {
    "date": _whole(_DATE),
    "time": _whole(_TIME),
    "date-time": _whole(f"{_DATE}[Tt]{_TIME}"),
    "duration": _whole(_DURATION),
    "email": _whole(_mailbox(_ATOM, _MAIL_HOST)),
    "idn-email": _whole(_mailbox(_UNICODE_ATOM, f"{_MAIL_HOST}|{_IDN_HOSTNAME}")),
    "hostname": _whole(_HOSTNAME),
    "idn-hostname": _whole(f"{_HOSTNAME}|{_IDN_HOSTNAME}"),
    "ipv4": _whole(_IPV4),
    "ipv6": _whole(_IPV6),
    "uri": _whole(_uri("", "", relative=False)),
    "uri-reference": _whole(_uri("", "", relative=True)),
    "iri": _whole(_uri(_UCS, _PRIVATE, relative=False)),
    "iri-reference": _whole(_uri(_UCS, _PRIVATE, relative=True)),
    "uuid": _whole("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    "uri-template": _whole(_URI_TEMPLATE),
    "json-pointer": _whole(_POINTER),
    "relative-json-pointer": _whole(rf"(?:0|[1-9][0-9]{{0,8}})(?:\#|{_POINTER})"),
    "regex": _whole(_regex()),
}
