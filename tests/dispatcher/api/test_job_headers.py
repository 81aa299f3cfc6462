"""What a job's submit says in its headers."""

from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api import job_headers
from dispatcher.api.call import Call
from dispatcher.api.inputs import Received
from dispatcher.gateway.intake import JobSubmission
from dispatcher.wire import PolicyShape
from receiver.base.http import Refusal, Request


def submission(**headers: str | bytes) -> JobSubmission:
    raw = [
        (name.replace("_", "-").encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in headers.items()
    ]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": raw}
    request = Request(scope, cast(Any, None), "req_1")
    call = Call(context=cast(Any, None), request=request, bodies=cast(Any, None), path={})
    return job_headers.read(call, "ep", Received(b"body"))


def refused(**headers: str | bytes) -> dict[str, Any]:
    with pytest.raises(Refusal) as caught:
        submission(**headers)
    assert (caught.value.status, caught.value.code) == (422, "VALIDATION_ERROR")
    return caught.value.details


def test_nothing_has_to_be_said() -> None:
    assert submission() == JobSubmission(
        endpoint="ep", body=b"body", content_type="application/octet-stream"
    )


def test_each_header_has_its_field() -> None:
    given = submission(
        content_type="image/png",
        postback_callback_url="https://example.com/hook",
        postback_policy="runpod",
        postback_callback_headers="X-Team=a%2Cb, X-Other=%20c",
        postback_priority="high",
        postback_tags="team=a,user%20id=%C3%BC%3D1 ,",
        postback_not_before="60.5",
        postback_timeout="15m",
        postback_ttl="90",
        postback_function="train",
        idempotency_key='"key \\"1\\""',
        accept="image/*",
        traceparent="00-1-2-01",
        authorization="Bearer secret",
        cookie="a=b",
    )
    assert given == JobSubmission(
        endpoint="ep",
        body=b"body",
        content_type="image/png",
        priority="high",
        tags={"team": "a", "user id": "ü=1"},
        function="train",
        headers=(("accept", "image/*"), ("traceparent", "00-1-2-01")),
        callback_url="https://example.com/hook",
        policy="runpod",
        callback_headers={"X-Team": "a,b", "X-Other": " c"},
        idempotency_key='key "1"',
        not_before=60.5,
        limit_s=900,
        ttl_s=90,
    )


def test_other_ways_to_say_it() -> None:
    """Another platform's word for the time to live; a bare key; a policy as an object; a time."""
    given = submission(
        cancel_after="1m",
        idempotency_key="key-1",
        postback_destination="billing",
        postback_policy='{"attempts": 2, "delays": [1]}',
        postback_not_before="2030-01-01T00:00:00Z",
    )
    assert (given.ttl_s, given.idempotency_key, given.destination) == (60, "key-1", "billing")
    assert given.policy == PolicyShape(attempts=2, delays=[1])
    assert given.not_before == "2030-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"postback_priority": "urgent"}, "Postback-Priority"),
        ({"postback_priority": "High"}, "Postback-Priority"),
        ({"postback_tags": "team"}, "Postback-Tags"),
        ({"postback_tags": "a=1,a=2"}, "Postback-Tags"),
        ({"postback_tags": "a=%ff"}, "Postback-Tags"),
        ({"postback_tags": b"a=\xff"}, "Postback-Tags"),
        ({"postback_tags": "a=" + "x" * 9_000}, "Postback-Tags"),
        ({"postback_callback_headers": "X-Team"}, "Postback-Callback-Headers"),
        ({"postback_policy": "fast"}, "Postback-Policy"),
        ({"postback_policy": "{"}, "Postback-Policy"),
        ({"postback_policy": '{"attempts": 0}'}, "Postback-Policy"),
        ({"postback_timeout": "soon"}, "Postback-Timeout"),
        ({"postback_timeout": "-1"}, "Postback-Timeout"),
        ({"postback_ttl": "1x"}, "Postback-Ttl"),
        ({"postback_ttl": ""}, "Postback-Ttl"),
        ({"cancel_after": "nan"}, "Cancel-After"),
        ({"cancel_after": "1m", "postback_ttl": "60"}, "Cancel-After"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_header(
    headers: dict[str, str | bytes], field: str
) -> None:
    assert refused(**headers)["field"] == field


@given(
    st.dictionaries(
        st.sampled_from([one.decode().replace("-", "_") for one in job_headers.SINGLE]),
        st.binary(max_size=100),
    )
)
def test_whatever_is_sent_it_is_read_or_refused(headers: dict[str, bytes]) -> None:
    with suppress(Refusal):
        submission(**headers)
