"""misfits.py: why a document is refused, in words that help, and never a parser's own."""

import json
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher import wire, wire_jobs
from dispatcher.api.json import decode, decoder
from receiver.base.http import Refusal

# What parsers say, and nobody is to read.
RAW: Final = ("Expected `", "Invalid enum", "Object ", "malformed", "Input data", "codec", "regex")
SHAPES: Final = (
    wire.Submit,
    wire.BatchLine,
    wire.Register,
    wire.NewKey,
    wire.ReplayRequest,
    wire_jobs.NewEndpoint,
)


def refusal(shape: Any, body: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode(decoder(shape), body, depth_max=32)
    return caught.value


def submit(**fields: Any) -> bytes:
    document = {"jobId": "job_1", "payload": {}, "callbackUrl": "https://example.com/", **fields}
    return json.dumps({name: value for name, value in document.items() if value != "-"}).encode()


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ({"jobid": "x"}, "jobid", "unknown field; did you mean jobId?"),
        ({"CALLBACKURL": "x"}, "CALLBACKURL", "unknown field; did you mean callbackUrl?"),
        ({"zzzzzz": "x"}, "zzzzzz", "unknown field"),
        ({"jobId": "-"}, "jobId", "required"),
        ({"jobId": 5}, "jobId", "must be a text, not a number"),
        ({"jobId": None}, "jobId", "must be a text, not null"),
        ({"jobId": ""}, "jobId", "must have at least 1 character"),
        ({"jobId": "x" * 201}, "jobId", "must have at most 200 characters"),
        ({"tags": {"a": {}}}, "tags", "must be a text, not an object"),
        ({"tags": {"": "x"}}, "tags", "a key must have at least 1 character"),
        ({"tags": dict.fromkeys(map(str, range(17)), "")}, "tags", "must have at most 16 entries"),
        ({"priority": "hihg"}, "priority", "must be one of high, normal; did you mean high?"),
        ({"run": 1.5}, "run", "must be a whole number or null, not a number with a fraction"),
        ({"run": 0}, "run", "must be at least 1"),
        ({"policy": {"attempts": 3, "jitter": -1}}, "policy.jitter", "must be at least 0"),
        (
            {"policy": {"attempt": 3}},
            "policy.attempt",
            "unknown field; did you mean attempts?",
        ),
        (
            {"policy": {"attempts": 1, "acknowledge": [1]}},
            "policy.acknowledge[0]",
            "must be at least 200",
        ),
        (
            {"destination": "a b"},
            "destination",
            "must be 1 to 64 letters, digits, `.`, `_` and `-`, of which the first is a letter or "
            "a digit",
        ),
    ],
)
def test_a_reason_says_what_a_field_takes(given: Any, field: str, reason: str) -> None:
    """With the nearest name for one that is misspelt."""
    refused = refusal(wire.Submit, submit(**given))
    assert (refused.status, refused.details["field"]) == (422, field)
    assert refused.details["reason"] == reason
    assert refused.message == f"{field}: {reason}"


def test_a_preset_that_there_is_not_comes_with_those_that_there_are() -> None:
    reason = refusal(wire.Submit, submit(policy="standard-webhook")).details["reason"]
    for word in ("exponential", "standard-webhooks", "runpod", "cerebrium", "or an object"):
        assert word in reason
    assert reason.endswith("did you mean standard-webhooks?")


def test_words_in_a_list_and_of_two_kinds_are_told_too() -> None:
    scopes = refusal(wire.NewKey, b'{"scopes": ["sumbit"]}').details
    assert scopes["field"] == "scopes[0]"
    assert "submit" in scopes["reason"]
    assert scopes["reason"].endswith("did you mean submit?")
    retry = refusal(wire_jobs.EndpointChange, b'{"retryOn": ["x"]}').details["reason"]
    assert retry.startswith("must be unknown")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"jobId" 1}', "byte 9: a colon is missing behind a key"),
        (b"{a:1}", "byte 1: a key must be a text in double quotes"),
        (b'{"payload": tru}', "byte 13: there is a character that cannot stand there"),
        (b'{"payload": 01}', "byte 13: a number is not written as JSON writes it"),
        (b'{"payload": [1,]}', "byte 15: a comma stands before a closing bracket"),
        (b'{"jobId": "\\x"}', "byte 13: a text has an escape that JSON does not have"),
        (b'{"payload": "', "the document is truncated: the body ends within it"),
        (b"", "the body is empty"),
    ],
)
def test_what_is_no_json_is_told_by_its_place(body: bytes, reason: str) -> None:
    refused = refusal(wire.Submit, body)
    assert (refused.status, refused.code) == (400, "MALFORMED_JSON")
    assert refused.message == reason


VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@settings(max_examples=150, derandomize=True)
@given(data=st.data())
def test_no_words_of_a_parser_get_out(data: st.DataObject) -> None:
    """Whatever stands in whatever field."""
    shape: Any = data.draw(st.sampled_from(SHAPES))
    names = st.sampled_from(list(shape.__struct_encode_fields__)) | st.text(max_size=5)
    document = data.draw(st.dictionaries(names, VALUES, max_size=3))
    body = json.dumps(document).encode()
    cut = data.draw(st.integers(0, len(body)))
    for one in (body, body[:cut]):
        try:
            decode(decoder(shape), one, depth_max=32)
        except Refusal as refused:
            told = [refused.message, str(refused.details.get("reason", ""))]
            field = str(refused.details.get("field", ""))
            for text in told:
                assert not any(raw in text.removeprefix(field) for raw in RAW), text
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            pytest.fail(f"a parser's error got out: {error}")
