"""Accepting a job without HTTP: what its request may say, and what is stored of it."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import ids
from dispatcher.gateway.intake import JobSubmission, new_job
from dispatcher.intake import IntakeError, Invalid, PayloadTooLarge
from dispatcher.jobs.endpoint import CallbackDefaults, EndpointRules
from dispatcher.jobs.schema import InputSchema
from dispatcher.jobs.values import NewJob
from dispatcher.policy import PRESETS
from dispatcher.settings import Settings
from dispatcher.wire import PolicyShape

NOW = 1_800_000_000_000
URL = "http://127.0.0.1:9/hook"
SETTINGS = Settings(allow_networks=(ip_network("127.0.0.0/8"),))
RULES = EndpointRules(url="http://127.0.0.1:9000/generate")
GIVEN = JobSubmission(endpoint="ep", body=b'{"a":1}', content_type="application/json")
Make = Callable[..., NewJob]


def made(rules: EndpointRules = RULES, **given: Any) -> NewJob:
    return new_job(replace(GIVEN, **given), "acme", rules, SETTINGS, NOW)


def refused(rules: EndpointRules = RULES, **given: Any) -> str:
    with pytest.raises(Invalid) as caught:
        made(rules, **given)
    return caught.value.field


def test_a_plain_job() -> None:
    """Its bytes and type as they came; it is told to nobody; it has a day to begin."""
    job = made()
    assert (job.body, job.content_type, job.tenant, job.endpoint) == (
        b'{"a":1}', "application/json", "acme", "ep",
    )  # fmt: skip
    assert ids.parse_job_id(job.id) == job.id
    assert (job.key, job.content, job.not_before_ms) == (None, b"", None)
    assert (job.created_ms, job.expires_ms) == (NOW, NOW + 86_400_000)
    assert job.options.callback is None
    assert (job.options.limit_s, job.options.ttl_s, job.options.function) == (None, None, None)


def test_everything_that_can_be_said() -> None:
    job = made(
        priority="low",
        tags={"team": "a"},
        headers=(("accept", "image/png"),),
        callback_url=URL,
        policy=PolicyShape(attempts=2, delays=[1.5]),
        callback_headers={"X-Team": "a"},
        idempotency_key="key-1",
        not_before=60,
        limit_s=30,
        ttl_s=120,
    )
    target = job.options.callback
    assert target is not None
    assert (target.url, target.destination_name) == (URL, None)
    assert target.lane == ids.lane_id("acme", URL)
    assert target.destination == ids.destination_id("acme", url=URL)
    assert target.headers == (("X-Team", "a"),)
    assert target.policy is not None
    assert (target.policy.attempts, target.policy.delays) == (2, (1.5,))
    assert (job.priority, job.tags) == ("low", (("team", "a"),))
    assert job.options.headers == (("accept", "image/png"),)
    assert (job.options.limit_s, job.options.ttl_s) == (30, 120)
    assert (job.not_before_ms, job.expires_ms) == (NOW + 60_000, NOW + 120_000)
    assert job.key == ids.job_key("acme", "key-1")
    digest = sha256(b'{"a":1}').digest()
    assert job.content == ids.job_content("ep", None, URL, digest, "application/json")


def test_what_waits_for_a_time_has_its_queue_timeout_from_then_on() -> None:
    job = made(replace(RULES, queue_timeout=10), not_before=60)
    assert job.expires_ms == NOW + 70_000


def test_a_registered_destination_and_its_own_policy() -> None:
    target = made(destination="billing").options.callback
    assert target is not None
    assert (target.url, target.destination_name, target.policy) == (None, "billing", None)
    assert target.destination == target.lane == ids.destination_id("acme", name="billing")


def test_where_the_request_says_nothing_the_endpoint_does() -> None:
    """Destination and policy, one without the other too; what the request says counts."""
    rules = replace(RULES, callback=CallbackDefaults(policy="runpod", destination="billing"))
    target = made(rules).options.callback
    assert target is not None
    assert (target.destination_name, target.policy_text) == ("billing", "runpod")
    assert target.policy == PRESETS["runpod"]
    target = made(rules, callback_url=URL, policy="cerebrium").options.callback
    assert target is not None
    assert (target.url, target.destination_name, target.policy_text) == (URL, None, "cerebrium")


def test_the_function_that_is_called() -> None:
    """One that the endpoint has, or any where its URL has a place for it."""
    assert made(function="run").options.function == "run"
    assert refused(function="train") == "function"
    open_rules = replace(RULES, url="http://127.0.0.1:9000/{function}")
    assert made(open_rules, function="train").options.function == "train"
    assert made(open_rules).options.function == "run"
    assert refused(open_rules, function="../admin") == "function"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"callback_url": URL, "destination": "billing"}, "callbackUrl"),
        ({"callback_url": "ftp://127.0.0.1/"}, "callbackUrl"),
        ({"callback_url": "http://10.0.0.1/"}, "callbackUrl"),
        ({"callback_url": ""}, "callbackUrl"),
        ({"callback_url": URL + "x" * 2_048}, "callbackUrl"),
        ({"destination": "no name"}, "destination"),
        ({"callback_url": URL, "callback_headers": {"Host": "x"}}, "headers.Host"),
        ({"callback_headers": {"X-Team": "a"}}, "headers"),
        ({"policy": "runpod"}, "policy"),
        ({"content_type": "a\nb"}, "Content-Type"),
        ({"tags": {"": "x"}}, "tags"),
        ({"tags": {str(n): "x" for n in range(17)}}, "tags"),
        ({"idempotency_key": "a b"}, "Idempotency-Key"),
        ({"not_before": "soon"}, "notBefore"),
        ({"limit_s": 0.5}, "timeout"),
        ({"limit_s": 604_801}, "timeout"),
        ({"ttl_s": 9}, "ttl"),
        ({"ttl_s": float("inf")}, "ttl"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(given: dict[str, Any], field: str) -> None:
    assert refused(**given) == field


def test_an_endpoint_bounds_how_long_a_request_may_ask_for() -> None:
    rules = replace(RULES, timeout_max=60)
    assert made(rules, limit_s=60).options.limit_s == 60
    assert refused(rules, limit_s=61) == "timeout"


def test_an_input_fits_its_endpoints_schema() -> None:
    """T39: the field by its path, its value if it is short, and why; no JSON is no input."""
    schema = {
        "properties": {"pages": {"type": "integer", "minimum": 1}},
        "required": ["pages"],
    }
    rules = replace(RULES, schema=InputSchema(schema))
    assert made(rules, body=b'{"pages": 1}').body == b'{"pages": 1}'
    with pytest.raises(Invalid) as caught:
        made(rules, body=b'{"pages": -5}')
    assert (caught.value.field, caught.value.value) == ("pages", -5)
    assert refused(rules, body=b"{}") == "pages"
    for body in (b"", b"nonsense", b"\xff", b'{"pages": 1} x', b"[" * 10_000):
        assert refused(rules, body=body) == "body"


def test_an_input_is_as_large_as_the_endpoint_takes() -> None:
    """One limit, at the door."""
    rules = replace(RULES, input_max=7)
    assert made(rules).body == GIVEN.body
    with pytest.raises(PayloadTooLarge) as caught:
        made(rules, body=b"12345678")
    assert caught.value.bytes_max == 7


@given(
    given=st.fixed_dictionaries(
        {},
        optional={
            "callback_url": st.text(max_size=50),
            "destination": st.text(max_size=80),
            "function": st.text(max_size=80),
            "idempotency_key": st.text(max_size=300),
            "tags": st.dictionaries(st.text(max_size=80), st.text(max_size=300), max_size=20),
            "not_before": st.text(max_size=30) | st.floats(),
            "limit_s": st.floats(),
            "ttl_s": st.floats(),
            "content_type": st.text(max_size=300),
            "callback_headers": st.dictionaries(st.text(max_size=80), st.text(max_size=300)),
        },
    )
)
def test_whatever_is_said_it_is_taken_or_refused(given: dict[str, Any]) -> None:
    """A caller's mistake is never a fault of ours."""
    try:
        job = made(**given)
    except IntakeError:
        return
    assert job.expires_ms > NOW
