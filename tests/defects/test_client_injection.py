"""Bytes of a stranger's job, handed to the client as a payload, stay a payload."""

import json

import pytest

from dispatcher.client import Client, Submission
from dispatcher.client.calls.submission import submit, submit_batch, submit_raw

URL = "https://example.com/hook"
NOT_ONE_VALUE = [
    b"",
    b" ",
    b"not json",
    b'{"status":"completed"},"priority":"high","tags":{"team":"evil"},"policy":{"attempts":50}',
    b'{"a":1},"idempotencyKey":"order-42"',
    b'{"a":1}}',
    b'{"a":1}{"b":2}',
    b'1,"priority":"high"',
    b'"\xff"',
    b'{"a":1}\x00',
    b"NaN",
    b'\xef\xbb\xbf{"a":1}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("payload", NOT_ONE_VALUE)
def test_a_payload_of_bytes_is_exactly_one_json_value(payload: bytes) -> None:
    """Otherwise ValueError, before anything is sent: in a submit, in `submit_many`, in a batch."""
    with pytest.raises(ValueError, match="exactly one JSON value"):
        submit("job_1", payload, callback_url=URL)
    item = Submission(job_id="job_1", payload=payload, callback_url=URL)
    with pytest.raises(ValueError, match="exactly one JSON value"):
        submit_batch([item.encode()])
    with (
        Client("http://127.0.0.1:1", "k") as client,
        pytest.raises(ValueError, match="exactly one JSON value"),
    ):
        list(client.submit_many([item]))


@pytest.mark.parametrize(
    "payload", [b' { "a" : [1e400, 1.50] }\n', b"1", b'"caf\xc3\xa9"', b"null"]
)
def test_one_value_of_any_kind_stays_the_bytes_it_is(payload: bytes) -> None:
    """The callback has the fields that were given, and these bytes as its payload."""
    call = submit("job_1", payload, callback_url=URL)
    assert call.body.endswith(b',"payload":' + payload + b"}")
    assert list(json.loads(call.body)) == ["jobId", "callbackUrl", "payload"]


@pytest.mark.parametrize("line", [b"{}\n{}", b"", b" \n"])
def test_a_line_of_a_batch_makes_no_second_one(line: bytes) -> None:
    """A line end inside what one was given would hand over another callback."""
    with pytest.raises(ValueError, match="one line"):
        submit_batch([b"{}", line])


@pytest.mark.parametrize("kind", ["", " ", "text/plain\r\nX-Role: admin", "text/\xe9", "a" * 300])
def test_a_content_type_makes_no_second_header(kind: str) -> None:
    """It is refused, and not met as a connection that broke."""
    with pytest.raises(ValueError, match="content type"):
        submit_raw("job_1", b"", content_type=kind, callback_url=URL)
