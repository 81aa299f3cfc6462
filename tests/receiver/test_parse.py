"""parse.py: one reading for everybody, or none."""

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.verification.identity import Identity, identify
from receiver.verification.parse import ParseError, parse


def reason_of(body: bytes, message_id: str | None = None) -> str:
    with pytest.raises(ParseError) as caught:
        identify(body, message_id)
    return caught.value.reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff", "encoding"),
        (b"\xed\xa0\x80", "encoding"),
        (b"", "syntax"),
        (b"{", "syntax"),
        (b"{'jobId':'a'}", "syntax"),
        (b'\xef\xbb\xbf{"jobId":"a"}', "syntax"),
        (b'{"jobId":"a"} {}', "syntax"),
        (b'{"jobId":"a\x00b"}', "syntax"),
        (b'{"jobId":"a","jobId":"b"}', "duplicate_key"),
        (b'{"jobId":"a","x":{"y":1,"y":1}}', "duplicate_key"),
        (b'{"jobId":"a","x":NaN}', "number"),
        (b'{"jobId":"a","x":-Infinity}', "number"),
        (b'{"jobId":"a","x":1e999}', "number"),
        (b'{"jobId":"a","x":' + b"9" * 101 + b"}", "number"),
        (b'{"jobId":"a","x":' + b"9" * 100_000 + b"}", "number"),
        (b'{"jobId":"a","x":' + b"[" * 64 + b"]" * 64 + b"}", "nesting"),
        (b"[" * 100_000 + b"]" * 100_000, "nesting"),
        (b"[" * 1_000_000, "nesting"),
        (b'{"a":' * 100_000, "nesting"),
        (b'{"jobId":"a\\u0000b"}', "nul"),
        (b'{"jobId":"a","x":[{"\\u0000":1}]}', "nul"),
        (b'{"jobId":"a","x":"\\ud800"}', "surrogate"),
        (b'{"jobId":"a","\\udfff":1}', "surrogate"),
        (b"{}", "identity"),
        (b"[]", "identity"),
        (b'"job_1"', "identity"),
        (b"null", "identity"),
        (b'{"jobId":null}', "job_id"),
        (b'{"jobId":7}', "job_id"),
        (b'{"jobId":""}', "job_id"),
        (b'{"jobId":" "}', "job_id"),
        (b'{"jobId":"a\\nb"}', "job_id"),
        (b'{"jobId":"' + b"a" * 201 + b'"}', "job_id"),
        (b'{"jobId":"a","status":7}', "status"),
        (b'{"jobId":"a","status":""}', "status"),
        (b'{"jobId":"a","status":"' + b"a" * 65 + b'"}', "status"),
    ],
)
def test_every_ambiguous_body_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    """Each way in which two readers could disagree has a name."""
    assert reason_of(body) == reason


@pytest.mark.parametrize(
    ("body", "job_id", "status"),
    [
        (b'{"jobId":"a"}', "a", None),
        (b'{"jobId":"a","status":null}', "a", None),
        (b' {"status":"FAILED","jobId":"\\u00e9 \xf0\x9f\x98\x80"} ', "é 😀", "FAILED"),
        (b'{"jobId":"a","x":"\\ud83d\\ude00 \\\\u0000"}', "a", None),
        (b'{"jobId":"a","x":' + b"9" * 100 + b"}", "a", None),
        (b'{"jobId":"a","x":' + b"[" * 63 + b"]" * 63 + b"}", "a", None),
        (b'{"jobId":"' + b"a" * 200 + b'"}', "a" * 200, None),
    ],
)
def test_a_strict_body_names_its_job(body: bytes, job_id: str, status: str | None) -> None:
    """Up to the limits, and with a signed id beside it just the same."""
    expected = Identity(job_id=job_id, status=status)
    assert identify(body, None) == expected
    assert identify(body, "cb_1") == expected


@pytest.mark.parametrize("body", [b"\xff\x00\x89PNG", b"", b"plain text", b"[]", b"{}", b"7"])
def test_a_body_without_a_job_is_identified_by_its_signed_id(body: bytes) -> None:
    """Any bytes are a message when their id is signed."""
    assert identify(body, "cb_1").job_id is None


@pytest.mark.parametrize(
    "body", [b'{"jobId":"a","jobId":"b"}', b'{"jobId":7}', b"[" * 5000, b'{"x":NaN}']
)
def test_a_signed_id_excuses_no_ambiguous_json(body: bytes) -> None:
    """Dangerous JSON is refused whatever vouches for its sender."""
    assert reason_of(body, "cb_1") == reason_of(body)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**50), 10**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_whatever_is_plain_json_is_read_as_it_is(value: Any) -> None:
    """Strictness changes no value."""
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary() | st.text('{}[]",:0eE-+.\\u d8NaI').map(str.encode))
def test_garbage_raises_parse_error_and_nothing_else(body: bytes) -> None:
    """For any bytes at all."""
    with suppress(ParseError):
        parse(body)


def strings_in(document: Any) -> list[str]:
    if isinstance(document, str):
        return [document]
    if isinstance(document, dict):
        return [text for pair in document.items() for value in pair for text in strings_in(value)]
    return [text for value in document for text in strings_in(value)]


def depth_of(document: Any) -> int:
    if not isinstance(document, dict | list):
        return 0
    inner = document.values() if isinstance(document, dict) else document
    return 1 + max(map(depth_of, inner), default=0)


ESCAPES = [
    r"\ud83d",
    r"\uDE00",
    r"\udbFF",
    r"\u0000",
    r"\u0001",
    r"\u00e9",
    r"\uD7ff",
    r"\uE000",
    r"\\",
    r"\"",
    r"\n",
    r"\/",
]
ESCAPED = st.lists(
    st.sampled_from([*ESCAPES, *["u0000", "ud83d", "d83d", "é", "😀", "[", "}", "a"]]), max_size=8
).map("".join)


@given(texts=st.lists(ESCAPED, min_size=1, max_size=4))
def test_no_half_character_and_no_nul_gets_in_however_it_is_escaped(texts: list[str]) -> None:
    """What is told from the bytes is what a look at every string would tell, keys included."""
    body = (
        "[" + ",".join(f'{{"{n}{text}":"{text}"}}' for n, text in enumerate(texts)) + "]"
    ).encode()
    strings = strings_in(json.loads(body))
    unfit = any("\0" in text or re.search("[\ud800-\udfff]", text) for text in strings)
    if unfit:
        with pytest.raises(ParseError) as caught:
            parse(body)
        assert caught.value.reason in ("nul", "surrogate")
    else:
        assert strings_in(parse(body)) == strings


NESTED = st.recursive(
    st.sampled_from(["[", "}]", '"', "\\", '\\"]', ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("]{a"), inner),
    max_leaves=30,
)


@given(document=NESTED, depth_max=st.integers(0, 8))
def test_nesting_is_counted_whatever_the_strings_hold(document: Any, depth_max: int) -> None:
    """Brackets and quotes in strings open and close nothing."""
    body = json.dumps(document).encode()
    if depth_of(document) > depth_max:
        with pytest.raises(ParseError) as caught:
            parse(body, depth_max=depth_max)
        assert caught.value.reason == "nesting"
    else:
        assert parse(body, depth_max=depth_max) == document
