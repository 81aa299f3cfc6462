"""verify() and Event: three dialects, one type, and nothing but its two errors."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import receiver
from receiver import Event, ParseError, SignatureError, verify
from receiver.signature import Job, sign_sha256, signed_headers
from receiver.verification.cerebrium import sign

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
NOW_S = 1_700_000_000
VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())

# As the founding documents show it.
TENSORONE = {
    "jobId": "job_1234567890abcdef",
    "status": "completed",
    "output": {"document_url": "https://storage.example/report.pdf", "pages": 50},
    "executionTime": 287.5,
    "completedAt": "2024-01-15T14:34:47Z",
    "cost": 0.75,
    "tags": {"userId": "user_12345", "projectId": "proj_report_gen"},
}
RUNPOD = {
    "id": "c80ffee4-f315-4e25-a146-0f3d98cf024b-e1",
    "status": "FAILED",
    "delayTime": 31618,
    "executionTime": 1437,
    "error": '{"error_type": "<class \'ValueError\'>", "error_message": "no prompt"}',
}


def read(payload: Any, **more: Any) -> Event:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    headers = signed_headers(body, [SECRET], message_id="cb_1", timestamp_s=NOW_S)
    return verify(body, headers, SECRET, now_s=NOW_S, **more)


def test_tensorones_completion_is_an_event() -> None:
    """Every field of the founding document, typed."""
    event = read(TENSORONE)
    assert (event.job_id, event.status, event.is_final) == (TENSORONE["jobId"], "completed", True)
    assert event.output == TENSORONE["output"]
    assert event.execution_time == timedelta(seconds=287.5)
    assert event.completed_at == datetime(2024, 1, 15, 14, 34, 47, tzinfo=UTC)
    assert (event.cost, event.tags) == (0.75, TENSORONE["tags"])
    assert (event.platform, event.message_id) == ("tensorone", "cb_1")
    assert event.key == f"cb_1.sha256:{hashlib.sha256(event.raw).hexdigest()}"
    assert json.loads(event.raw) == TENSORONE


def test_runpods_failure_is_an_event() -> None:
    """`id`, upper case, milliseconds, and an error that is JSON in a string."""
    event = read(RUNPOD)
    assert (event.job_id, event.status) == (RUNPOD["id"], "failed")
    assert event.execution_time == timedelta(milliseconds=1437)
    assert event.error == {"error_type": "<class 'ValueError'>", "error_message": "no prompt"}
    assert event.platform == "runpod"


@pytest.mark.parametrize(
    "inner", ['{"a": "\\u0000"}', '{"a": "\\ud800"}', '{"a": 1, "a": 2}', '{"a": NaN}', "{" * 500]
)
def test_an_error_that_is_no_strict_json_stays_the_text_that_it_is(inner: str) -> None:
    """What a body may not say, a string in it may not either."""
    assert read({**RUNPOD, "error": inner}).error == inner


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("IN_QUEUE", "queued"),
        ("IN_PROGRESS", "running"),
        ("COMPLETED", "completed"),
        ("CANCELLED", "cancelled"),
        ("TIMED_OUT", "timeout"),
    ],
)
def test_runpods_statuses_have_one_spelling(sent: str, status: str) -> None:
    """The one that TensorOne uses."""
    assert read({**RUNPOD, "status": sent}).status == status


def cerebrium(body: bytes, *, at_s: int = NOW_S, id: str = "run-1") -> dict[str, str]:
    return {
        "X-Request-Id": id,
        "X-Cerebrium-Webhook-Timestamp": str(at_s),
        "X-Cerebrium-Webhook-Signature": sign(SECRET, id, at_s, body),
    }


def test_cerebriums_signature_matches_the_vectors() -> None:
    """Made and verified."""
    for vector in VECTORS["cerebrium"]:
        body = vector["body"].encode()
        assert (
            sign(vector["secret"], vector["id"], vector["timestamp"], body) == (vector["signature"])
        )
        headers = {
            "x-request-id": vector["id"],
            "x-cerebrium-webhook-timestamp": str(vector["timestamp"]),
            "x-cerebrium-webhook-signature": vector["signature"],
        }
        event = verify(
            body,
            headers,
            vector["secret"],
            now_s=vector["timestamp"],
            dialect="cerebrium",
        )
        assert (event.job_id, event.status) == (vector["id"], "completed")
        assert (event.output, event.platform) == ({"smile": "wave"}, "cerebrium")


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (b"\x89PNG\xff", None),
        (b"", None),
        (b'{"status":"running","jobId":"x"}', {"status": "running", "jobId": "x"}),
        (b'{"run_id":"run-1","result":{"a":1},"run_time_ms":1500}', {"a": 1}),
    ],
)
def test_any_body_of_cerebriums_is_a_result(body: bytes, output: Any) -> None:
    """Nothing in it is taken for the job's own id or status; its id is the signed one."""
    event = verify(body, cerebrium(body), SECRET, now_s=NOW_S, dialect="cerebrium")
    assert (event.job_id, event.status, event.output) == ("run-1", "completed", output)
    if b"run_time_ms" in body:
        assert event.execution_time == timedelta(seconds=1.5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"X-Request-Id": "run-2"}, "mismatch"),
        ({"X-Request-Id": "a.b"}, "malformed"),
        ({"X-Cerebrium-Webhook-Timestamp": str(NOW_S + 1)}, "mismatch"),
        ({"X-Cerebrium-Webhook-Timestamp": "0" + str(NOW_S)}, "mismatch"),
        ({"X-Cerebrium-Webhook-Timestamp": "now"}, "malformed"),
        ({"X-Cerebrium-Webhook-Signature": "v1,"}, "malformed"),
        ({"X-Cerebrium-Webhook-Signature": "v1," + "0" * 64}, "mismatch"),
    ],
)
def test_a_cerebrium_request_that_was_changed_is_refused(
    change: dict[str, str], reason: str
) -> None:
    """Id, time and body are all under the signature."""
    with pytest.raises(SignatureError) as caught:
        verify(b"{}", {**cerebrium(b"{}"), **change}, SECRET, now_s=NOW_S, dialect="cerebrium")
    assert caught.value.reason == reason
    with pytest.raises(SignatureError):
        verify(b"{} ", cerebrium(b"{}"), SECRET, now_s=NOW_S, dialect="cerebrium")
    with pytest.raises(SignatureError, match="old"):
        verify(
            b"{}",
            cerebrium(b"{}", at_s=NOW_S - 301),
            SECRET,
            now_s=NOW_S,
            dialect="cerebrium",
        )


def test_cerebriums_signature_does_not_stand_in_for_ours() -> None:
    """Where our own scheme is required, another one is none."""
    with pytest.raises(SignatureError, match="required"):
        verify(b"{}", cerebrium(b"{}"), SECRET, now_s=NOW_S, require="standard")
    with pytest.raises(SignatureError, match="no signature"):
        verify(b"{}", cerebrium(b"{}"), SECRET, now_s=NOW_S, dialect="tensorone")


def test_one_body_signed_for_us_is_no_other_message_of_cerebriums() -> None:
    """Its scheme signs id.timestamp.body with the key of `sha256=`: who saw one body of that form
    and its signature would have another message. So it counts only where the source says so."""
    body = b'job_42.%d.{"result":"you won"}' % NOW_S
    stolen = {
        "X-Request-Id": "job_42",
        "X-Cerebrium-Webhook-Timestamp": str(NOW_S),
        "X-Cerebrium-Webhook-Signature": "v1," + sign_sha256(SECRET, body)[7:],
    }
    with pytest.raises(SignatureError, match="no signature"):
        verify(b'{"result":"you won"}', stolen, SECRET, now_s=NOW_S)


def test_beside_cerebriums_signature_ours_must_hold_as_well() -> None:
    """Every signature that is there; and the signed headers say more than its request id."""
    job = Job(id="run-1", status="failed", run=2)
    ours = signed_headers(b"{}", [SECRET], message_id="cb_1", timestamp_s=NOW_S, job=job)
    both = {**cerebrium(b"{}"), **ours}
    event = verify(b"{}", both, SECRET, now_s=NOW_S, dialect="cerebrium")
    assert (event.job_id, event.status, event.run) == ("run-1", "failed", 2)
    wrong = {**both, "X-Webhook-Signature": "sha256=" + "0" * 64}
    with pytest.raises(SignatureError, match="match"):
        verify(b"{}", wrong, SECRET, now_s=NOW_S, dialect="cerebrium")


def test_the_dialect_can_be_laid_down() -> None:
    """A body with `id` names a RunPod job only where RunPod speaks, or is recognised."""
    body = {"id": "abc", "status": "done"}
    assert read(body, dialect="runpod").job_id == "abc"
    assert read(body).job_id == "cb_1"
    assert read({"jobId": "abc"}, dialect="runpod").job_id == "cb_1"
    founding = json.dumps({"jobId": "abc"}).encode()
    headers = {"x-webhook-signature": sign_sha256(SECRET, founding)}
    with pytest.raises(ParseError):
        verify(founding, headers, SECRET, dialect="runpod")


def test_a_founding_request_is_verified_by_sha256_alone() -> None:
    """And is named by its bytes."""
    body = json.dumps(TENSORONE).encode()
    event = verify(body, {"x-webhook-signature": sign_sha256(SECRET, body)}, [SECRET])
    assert event.message_id is None
    assert event.key.startswith("sha256:")


@pytest.mark.parametrize(
    "fields",
    [
        {"executionTime": "long"},
        {"executionTime": True},
        {"executionTime": -1},
        {"executionTime": 1e300},
        {"completedAt": "yesterday"},
        {"completedAt": 7},
        {"cost": [1]},
        {"tags": [1]},
        {"tags": {"a": 1}},
    ],
)
def test_a_field_of_the_wrong_form_is_none_and_refuses_nothing(fields: dict[str, Any]) -> None:
    """A completion is too dear to be turned away for its cost field."""
    event = read({"jobId": "job_1", "status": "completed", **fields})
    found = (event.execution_time, event.completed_at, event.cost, dict(event.tags))
    assert found == (None, None, None, {})


def test_a_repr_shows_no_content() -> None:
    """What a customer logs by accident is no result."""
    told = repr(read({**TENSORONE, "error": "private words"}))
    assert "private" not in told
    assert "document_url" not in told
    assert "user_12345" not in told


@given(
    st.binary(max_size=200) | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["jobId", "id", "status", "error", "executionTime", "tags", "cost"]),
            inner,
        ),
    ).map(lambda value: json.dumps(value).encode())
)  # fmt: skip
def test_any_signed_bytes_are_an_event_or_one_of_two_errors(body: bytes) -> None:
    """In every dialect."""
    for dialect in ("auto", "tensorone", "runpod", "cerebrium"):
        try:
            event = read(body, dialect=dialect)
        except (SignatureError, ParseError):
            continue
        assert event.raw == body
        assert event.job_id


@pytest.mark.parametrize("secrets", [None, 7, [], "", [""], ["whsec_"]])
def test_unusable_secrets_verify_nothing(secrets: Any) -> None:
    """A broken configuration is an error of its own, not an open door."""
    with pytest.raises(SignatureError) as caught:
        verify(b"{}", {}, secrets)
    assert caught.value.reason == "no_secret"


def test_the_package_gives_its_names_away_lightly() -> None:
    """`receiver.Receiver` is there; what is not there is an AttributeError."""
    assert receiver.Receiver.__name__ == "Receiver"
    assert receiver.Settings.__name__ == "Settings"
    with pytest.raises(AttributeError):
        _ = receiver.Nonsense
