"""parse.py: one reading for everybody, or none."""

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.base.completion import (
    STATUS_CHARS_MAX,
    TERMINAL,
    UNFIT_TEXT,
    ParseError,
    as_sent,
    canonical,
    ends,
    parse,
)
from receiver.signature import Job
from receiver.verification.identity import Identity, identify

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.text(min_size=201),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


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
        (b'{"jobId":"a\\nb"}', "job_id"),
        (b'{"jobId":"' + b"a" * 201 + b'"}', "job_id"),
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
        (b'\xef\xbb\xbf{"jobId":"a"}', "a", None),
        (b'{"jobId":" "}', " ", None),
        (b'{"jobId":"a\xe2\x80\x8db\xc2\xa0"}', "a\u200db\xa0", None),
        (b'{"jobId":"a","status":7}', "a", "7"),
        (b'{"jobId":"a","status":""}', "a", None),
        (b'{"jobId":"a","status":{"b":[]}}', "a", '{"b": []}'),
        (b'{"jobId":"a","status":"' + b"a" * 201 + b'"}', "a", "a" * 199 + "…"),
        (b'{"jobId":"a","status":"done\\n"}', "a", "done\ufffd"),
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
    "body", [b'{"x":{"a":1,"a":2}}', b'{"jobId":7}', b"[" * 5000, b'{"x":NaN}', b'{"x":1e999}']
)
def test_a_message_that_is_named_by_its_id_is_not_refused_for_its_body(body: bytes) -> None:
    """Nothing in JSON that readers read differently is believed, and nothing is turned away."""
    assert identify(body, "cb_1").document in (None, {"jobId": 7})


@pytest.mark.parametrize(
    "body", [b'{"jobId":"a","jobId":"b"}', b'{"jobId":"a","x":1e999,"\\u006aobId":"b"}']
)
def test_what_names_two_jobs_is_refused_whatever_signs_it(body: bytes) -> None:
    """Unless signed headers say which is meant."""
    reason_of(body)
    reason_of(body, "cb_1")
    assert identify(body, "cb_1", job=Job(id="c")).job_id == "c"


READ, UNREAD = b'{"status":"failed"}', b'{"status":"failed"'


@pytest.mark.parametrize(
    ("body", "job", "status"),
    [
        (READ, Job(id="j"), "failed"),
        (READ, Job(id="j", status="cancelled"), "cancelled"),
        (READ, Job(status="timeout"), "timeout"),
        (UNREAD, Job(id="j"), "unknown"),
        (UNREAD, Job(id="j", status="ERROR"), "failed"),
        (READ.decode().encode("utf-16"), Job(id="j"), "unknown"),
        (b"\xef\xbb\xbf" + READ, Job(id="j"), "failed"),
        (b'{"status":"f\xe4iled"}', Job(id="j"), "unknown"),
        (b'{"status":"failed","x":1e999}', Job(id="j"), "unknown"),
        (b'{"x":1e999}', Job(id="j"), "completed"),
        (b'{"status":null,"x":1e999}', Job(id="j"), "completed"),
        (b'{"status":7}', Job(id="j"), "unknown"),
        (b'{"status":null}', Job(id="j"), "completed"),
        (b'{"status":""}', Job(id="j"), "completed"),
        (b"", Job(id="j"), "completed"),
        (b"\x89PNG", Job(id="j"), "completed"),
        (b"[1", Job(id="j"), "completed"),
        (b'{"output":1}', Job(id="j"), "completed"),
        (READ, Job(id="j", status="who knows"), "unknown"),
        (b"\x89PNG", None, "unknown"),
        (b"", None, "unknown"),
        (b'{"output":1}', None, "completed"),
        (b"7", None, "completed"),
    ],
)
def test_a_status_is_the_signed_one_else_the_bodys(
    body: bytes, job: Job | None, status: str
) -> None:
    """No status at all, in a body that was read or of a job that is named, is a completion; what
    cannot be read is none."""
    assert canonical(identify(body, "cb_1", job=job).status) == status


@pytest.mark.parametrize(
    ("canonical_status", "spellings"),
    [
        ("completed", "completed COMPLETED complete succeeded success successful done finished OK"),
        ("failed", "failed FAILED failure error errored crashed"),
        ("cancelled", "cancelled canceled CANCELED aborted"),
        ("timeout", "timeout TIMED_OUT timed-out timedOut expired"),
        ("queued", "queued IN_QUEUE pending"),
        ("running", "running IN_PROGRESS in-progress processing"),
        ("unknown", "unknown whatever 7 completed! completed."),
    ],
)
def test_statuses_are_known_in_all_common_spellings(canonical_status: str, spellings: str) -> None:
    """And what nobody knows is taken for nothing."""
    for spelling in spellings.split():
        assert canonical(spelling) == canonical_status
        assert ends(spelling) == (canonical_status in TERMINAL)
    assert canonical(None) == canonical("") == "completed"


@given(ANY_JSON)
def test_what_is_no_status_stays_none_however_it_is_kept(status: Any) -> None:
    """What is stored of it is text that any database takes, and means what it meant."""
    kept = as_sent(status)
    if not isinstance(status, str) or len(status) > STATUS_CHARS_MAX:
        assert (kept is None) == (status is None)
        assert kept is None or canonical(kept) == "unknown"
    assert kept is None or (len(kept) <= STATUS_CHARS_MAX and not UNFIT_TEXT.search(kept))


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
