"""JSON from strangers: what is refused, and that nothing ordinary is."""

import contextlib
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api.json import check_depth, check_keys, decode
from dispatcher.wire import ReplayRequest, Rotate, Submit
from receiver.base.http import Refusal

SUBMIT = msgspec.json.Decoder(Submit)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def refused(body: bytes, depth_max: int = 64) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode(SUBMIT, body, depth_max=depth_max)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nope",
        b'{"jobId":"a","payload":1}x',
        b'{"jobId":"a","payload":NaN}',
        b'{"jobId":"a","payload":01}',
        b'{"jobId":"a","payload":"\x00"}',
        b'{"jobId":"a","payload":"\xff"}',
        b'{"jobId":"\xff","payload":1}',
        b'\xef\xbb\xbf{"jobId":"a","payload":1}',
        rb'{"jobId":"a","payload":"\ud800"}',
        rb'{"jobId":"a","payload":"\udc00"}',
        rb'{"jobId":"\ud800","payload":1}',
        rb'{"jobId":"a","payload":"\q"}',
        b'{"jobId":"a","payload":1,"jobId":"b"}',
        b'{"jobId":"a","payload":1,"payload":1}',
        b'{"jobId":"a" , "payload": [1, 2] ,\n "payload" : [ 1,2 ] }',
        rb'{"jobId":"a","payload":1,"job\u0049d":"b"}',
        b'{"jobId":"a","payload":' + b"[" * 65 + b"]" * 65 + b"}",
        b'{"jobId":"a","payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_not_one_clean_json_document_is_malformed(body: bytes) -> None:
    """400 for broken JSON, bad UTF-8, NUL, lone surrogates, duplicate keys and deep nesting."""
    assert refused(body).status == 400


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        (b"[]", "body", None),
        (b'{"payload":1}', "jobId", None),
        (b'{"jobId":7,"payload":1}', "jobId", 7),
        (b'{"jobId":"","payload":1}', "jobId", ""),
        (b'{"jobId":"a","payload":1,"jobID":"b"}', "jobID", None),
        (b'{"jobId":"a","payload":1,"tags":{"k":5}}', "tags", None),
        (b'{"jobId":"a","payload":1,"tags":{"":"v"}}', "tags", None),
        (b'{"jobId":"a","payload":1,"priority":"urgent"}', "priority", "urgent"),
        (b'{"jobId":"a","payload":1,"policy":{"attempts":0}}', "policy.attempts", 0),
        (b'{"jobId":"a","payload":1,"policy":{"attempts":1,"x":1}}', "policy.x", None),
        (
            b'{"jobId":"a","payload":1,"policy":{"attempts":1,"delays":[1,-1]}}',
            "policy.delays[1]",
            -1,
        ),
    ],
)
def test_what_has_another_shape_names_field_value_and_reason(
    body: bytes, field: str, value: object
) -> None:
    """422, with the field as a dotted path."""
    error = refused(body)
    assert (error.status, error.code) == (422, "VALIDATION_ERROR")
    assert error.details["field"] == field
    assert error.details["value"] == value
    assert error.details["reason"]


def test_an_error_shows_a_bounded_value_and_never_a_secret() -> None:
    """However long the wrong value, the answer stays short; a secret is not repeated at all."""
    long = decode_error(Submit, json.dumps({"jobId": "x" * 50_000, "payload": 1}).encode())
    assert len(json.dumps(long.document())) < 1_000
    enum = json.dumps({"jobId": "x", "payload": 1, "policy": "y" * 50_000}).encode()
    assert len(json.dumps(decode_error(Submit, enum).document())) < 1_000
    url = json.dumps({"jobId": "x", "payload": 1, "callbackUrl": "http://u:pw@h/?" + "t" * 3_000})
    assert "pw" not in json.dumps(decode_error(Submit, url.encode()).document())
    secret = decode_error(Rotate, json.dumps({"secret": "whsec_" + "s3cr3t" * 60}).encode())
    assert "s3cr3t" not in json.dumps(secret.document())


def decode_error(shape: Any, body: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode(msgspec.json.Decoder(shape), body, depth_max=64)
    return caught.value


def test_the_payload_is_the_bytes_that_stood_there() -> None:
    """I5: whitespace, number forms and escapes inside the payload are kept."""
    payload = rb'{ "a" :1.0 ,"b":  [1e2,"\u00e9\/"]}'
    body = b'{"jobId":"a","payload":  ' + payload + b'  , "priority":"high"}'
    assert bytes(decode(SUBMIT, body, depth_max=64).payload) == payload


HOSTILE = {
    "brackets side by side": b"[" + b"[]," * 300_000 + b"[]]",
    "brackets inside each other": b"[" * 500_000 + b"]" * 500_000,
    "a string that never ends": b'"' + b'\\"' * 500_000 + b"[" * 70,
    "escapes that never end": b"[" * 70 + b'"\\' * 500_000,
    "many empty strings": b"[" + b'"",' * 300_000 + b"[]" + b",[]" * 70 + b"]",
    "many numbers": b"[" + b"1," * 500_000 + b"1]",
    "one long number": b"1" * 1_000_000,
    "a long unknown field": b'1,"' + b" - at `$.x`" * 100_000 + b'":1',
    "spaces": b" " * 1_000_000 + b"1",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("key", ["jobId", "job\\u0049d"])
@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_i6_a_megabyte_of_malice_costs_milliseconds(key: str, payload: bytes) -> None:
    """I6: no document makes the parser's work grow faster than its length; one that did took
    minutes for this size, and everybody else waited."""
    body = b'{"%s":"a","payload":%s}' % (key.encode(), payload)
    with contextlib.suppress(Refusal):
        decode(SUBMIT, body, depth_max=64)


def test_brackets_inside_text_do_not_nest() -> None:
    """Only real nesting counts."""
    body = json.dumps({"jobId": "a", "payload": '[{"\\' * 500}).encode()
    assert decode(SUBMIT, body, depth_max=2).job_id == "a"


def test_many_brackets_side_by_side_are_not_deep() -> None:
    """A long flat list passes."""
    body = json.dumps({"jobId": "a", "payload": [[]] * 5_000}).encode()
    assert decode(SUBMIT, body, depth_max=3).job_id == "a"


@given(VALUES, st.integers(1, 6))
def test_the_depth_is_the_depth_of_the_value(value: Any, depth_max: int) -> None:
    """The byte scan agrees with the parsed value, whatever it is."""
    body = json.dumps(value).encode()
    if depth(value) <= depth_max:
        check_depth(body, depth_max)
    else:
        with pytest.raises(Refusal):
            check_depth(body, depth_max)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, dict | list) + max(map(depth, inner), default=0)


@given(
    st.lists(st.tuples(st.text(max_size=3), VALUES), max_size=5),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_a_duplicate_key_is_found_whatever_surrounds_it(
    pairs: list[tuple[str, Any]], indent: int | str | None, ascii_only: bool
) -> None:
    """The byte count that decides ordinary cases never disagrees with the keys themselves."""
    dumped = [json.dumps({k: v}, indent=indent, ensure_ascii=ascii_only)[1:-1] for k, v in pairs]
    body = ("{" + ",".join(dumped) + "}").encode()
    keys = [key for key, _ in pairs]
    if len(set(keys)) == len(keys):
        check_keys(body)
    else:
        with pytest.raises(Refusal):
            check_keys(body)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"\u0061":1, "a":1}',
        rb'{"a":12,"\u0061":1}',
        rb'{"a":1,"\u0061":12}',
        rb'{"a":"x","b":{"a":[1]},"\u0061":"xy"}',
        rb'{"a":{"b":1},"a":{"b":1}}',
        b'{"a":1,' + b"".join(b'"b%d":0,' % n for n in range(1_001)) + rb'"\u0063":1}',
    ],
)
def test_what_an_escape_hides_is_found(body: bytes) -> None:
    """Whatever the values are; and what has more keys than anybody needs is not looked at one by
    one."""
    with pytest.raises(Refusal):
        check_keys(body)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"\u0061":1,"b":1}',
        b'{ "a" : 1 ,\n"b\\"" : "}" } ',
        rb'{"\ud83d\ude00":[{}],"":2}',
        b"{}",
    ],
)
def test_an_escape_alone_is_no_fault(body: bytes) -> None:
    check_keys(body)


def test_no_long_body_holds_up_everybody_else() -> None:
    """Nothing but tiny values, and a key that is written with an escape: no values are made of the
    longest input that there is by default, which would take many seconds; nor of one that is
    refused."""
    tiny = b'{"payload":[' + b",".join([b"[]"] * 3_400_000) + b']%b,"job\\u0049d":"a"}'
    half = tiny % b',"jobStatus":"\\ud800"'
    for body, faulty in (
        (tiny % b"", False),
        (tiny % b',"jobStatus":1', True),
        (half, True),
        (tiny[:-30], True),
    ):
        # To refuse one takes no look at how deep it is.
        limit_s = 0.6 if faulty else 1.8
        assert min(decoding_s(body, is_refused=faulty) for _ in range(2)) < limit_s


def decoding_s(body: bytes, *, is_refused: bool) -> float:
    begun_s = time.process_time()
    with pytest.raises(Refusal) if is_refused else contextlib.nullcontext():
        decode(SUBMIT, body, depth_max=64)
    return time.process_time() - begun_s


@given(st.binary(max_size=200))
def test_no_bytes_at_all_are_more_than_a_refusal(body: bytes) -> None:
    """Whatever comes is a value or an Refusal, nothing else."""
    for shape in (Submit, ReplayRequest):
        with contextlib.suppress(Refusal):
            decode(msgspec.json.Decoder(shape), body, depth_max=64)


@pytest.mark.parametrize("text", [rb"\ud800", rb"a\udbff", rb"\udc00"])
def test_half_a_pair_is_called_so(text: bytes) -> None:
    """Not the end of the data, as the parser has it."""
    body = b'{"jobId":"a","payload":{"x":"' + text + b'"}}'
    with pytest.raises(Refusal, match="surrogate pair"):
        decode(SUBMIT, body, depth_max=64)
    with pytest.raises(Refusal, match="truncated"):
        decode(SUBMIT, b'{"jobId":"a","payload":{"x":"', depth_max=64)
