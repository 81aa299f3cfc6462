"""signature.py against the published vectors, the founding verifier and two public libraries."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError
from svix.webhooks import Webhook as SvixWebhook

from receiver import signature
from receiver.signature import (
    JOB_HEADERS,
    Job,
    Require,
    SignatureError,
    generate_secret,
    job_headers,
    sign_sha256,
    sign_v1,
    sign_v1j,
    signed_headers,
    v1_key,
    verify,
)

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
NOW_S = 1_700_000_000
SECRET = "whsec_" + base64.b64encode(b"test-secret-of-thirty-two-bytes!").decode()
OTHER = "whsec_" + base64.b64encode(b"other-secret-of-32-bytes-fortest").decode()
BODY = b'{"jobId":"job_1","status":"completed"}'


def headers_now(body: bytes = BODY, *secrets: str, at_s: int = NOW_S) -> dict[str, str]:
    return signed_headers(body, secrets or (SECRET,), message_id="cb_1", timestamp_s=at_s)


def reason_of(body: Any, headers: Any, secrets: Any = SECRET, **options: Any) -> str:
    with pytest.raises(SignatureError) as caught:
        verify(body, headers, secrets, **{"now_s": NOW_S, **options})
    return caught.value.reason


# The founding document's verifier, verbatim.
# fmt: off
def verify_webhook(payload, signature, secret):  # type: ignore[no-untyped-def]  # verbatim
    expected = hmac.new(
        secret.encode('utf-8'),
        payload.encode('utf-8'),
        hashlib.sha256
    ).hexdigest()
    return hmac.compare_digest(f"sha256={expected}", signature)
# fmt: on


@pytest.mark.parametrize("vector", VECTORS["sha256"])
def test_sha256_signatures_equal_the_published_vectors(vector: dict[str, str]) -> None:
    """sign_sha256 makes each published value, and verify accepts it."""
    body = vector["body"].encode()
    assert sign_sha256(vector["secret"], body) == vector["signature"]
    headers = {"x-webhook-signature": vector["signature"]}
    assert verify(body, headers, vector["secret"], now_s=NOW_S).schemes == ("sha256",)


@pytest.mark.parametrize("vector", VECTORS["standard_webhooks_v1"])
def test_v1_signatures_equal_the_published_vectors(vector: dict[str, Any]) -> None:
    """sign_v1 makes each published value, and verify accepts it at its time."""
    body = vector["body"].encode()
    made = sign_v1(vector["secret"], vector["id"], vector["timestamp"], body)
    assert made == vector["signature"]
    headers = {
        "webhook-id": vector["id"],
        "webhook-timestamp": str(vector["timestamp"]),
        "webhook-signature": made,
    }
    verified = verify(body, headers, vector["secret"], now_s=vector["timestamp"])
    assert (verified.message_id, verified.timestamp) == (vector["id"], vector["timestamp"])


@pytest.mark.parametrize("vector", VECTORS["postback_v1j"], ids=lambda one: one["about"])
def test_job_signatures_equal_the_published_vectors(vector: dict[str, Any]) -> None:
    """Full stops, nothing, letters of any script: sign_v1j and job_headers make the published
    values, an HMAC over them as they stand does, and verify reads the job back."""
    job = Job(id=vector["jobId"], status=vector["jobStatus"], run=vector["run"])
    assert job_headers(job) == vector["headers"]
    at_s = vector["timestamp"]
    assert sign_v1j(vector["secret"], vector["id"], at_s, job) == vector["signature"]
    stated = [vector["headers"].get(name, "") for name in JOB_HEADERS]
    text = ".".join(["v1j", vector["id"], str(at_s), *stated])
    made = hmac.digest(v1_key(vector["secret"]), text.encode(), "sha256")
    assert vector["signature"] == "v1j," + base64.b64encode(made).decode()
    headers = signed_headers(
        BODY, [vector["secret"]], message_id=vector["id"], timestamp_s=at_s, job=job
    )
    assert vector["headers"].items() <= headers.items()
    verified = verify(BODY, headers, vector["secret"], now_s=at_s)
    said = Job(id=job.id or None, status=job.status or None, run=job.run)
    assert verified.job == said


JOB = Job(id="job_1", status="failed", run=2)


def job_signed(*secrets: str, job: Job = JOB) -> dict[str, str]:
    return signed_headers(BODY, secrets or (SECRET,), message_id="cb_1", timestamp_s=NOW_S, job=job)


@pytest.mark.parametrize("known", [SECRET, OTHER])
def test_both_secrets_of_a_rotation_sign_the_job(known: str) -> None:
    """A receiver that has either one reads the job."""
    headers = job_signed(SECRET, OTHER)
    kinds = [value.split(",")[0] for value in headers["webhook-signature"].split(" ")]
    assert kinds == ["v1", "v1", "v1j", "v1j"]
    assert verify(BODY, headers, known, now_s=NOW_S).job == JOB


def test_a_job_counts_only_under_a_v1j_by_the_secret_of_a_valid_v1() -> None:
    """Headers alone, a v1j by another secret or over other values: the message holds, and says
    nothing of a job; a v1j alone is no signature at all."""
    headers = job_signed()
    v1, v1j = headers["webhook-signature"].split(" ")
    other_v1j = sign_v1j(OTHER, "cb_1", NOW_S, JOB)
    for value in (v1, f"{v1} {other_v1j}", f"{v1} v1j,", f"{v1} v1j,{v1[3:]}", f"{v1} {v1j[:-1]}"):
        changed = {**headers, "webhook-signature": value}
        assert verify(BODY, changed, [SECRET, OTHER], now_s=NOW_S).job is None
    for name, value in [*job_headers(Job(id="job_2", status="ok", run=3)).items()]:
        assert verify(BODY, {**headers, name: value}, SECRET, now_s=NOW_S).job is None
        dropped = {key: value for key, value in headers.items() if key != name}
        assert verify(BODY, dropped, SECRET, now_s=NOW_S).job is None
    assert reason_of(BODY, {**headers, "webhook-signature": v1j}) == "malformed"
    mixed = {**headers, "webhook-signature": f"{sign_v1(OTHER, 'cb_1', NOW_S, BODY)} {v1j}"}
    assert reason_of(BODY, mixed) == "mismatch"


def test_a_full_stop_cannot_be_moved_from_one_value_to_the_next() -> None:
    """What is signed can be read in one way: no value holds the full stop that separates them."""
    headers = job_signed(job=Job(id="a.b", status="c"))
    moved = {**headers, "X-Postback-Job-Id": "a", "X-Postback-Job-Status": "b.c"}
    assert verify(BODY, moved, SECRET, now_s=NOW_S).job is None
    moved = {**headers, "X-Postback-Job-Id": "a.b"}
    assert verify(BODY, moved, SECRET, now_s=NOW_S).job is None


def test_a_job_header_that_is_there_twice_is_ambiguous() -> None:
    """Under a v1j; who signs no job may use the name as he likes."""
    for name in JOB_HEADERS:
        assert reason_of(BODY, [*job_signed().items(), (name.lower(), "x")]) == "ambiguous"
        verify(BODY, [*headers_now().items(), (name, "x"), (name, "y")], SECRET, now_s=NOW_S)


@pytest.mark.parametrize(
    "stated",
    [
        ("%ff", "", ""),
        ("a", "%C3", ""),
        ("a", "b", "0"),
        ("a", "b", "1e3"),
        ("a", "", "01"),
        ("%zz", "", ""),
    ],
)
def test_a_signed_job_that_cannot_be_is_malformed(stated: tuple[str, str, str]) -> None:
    """Validly signed by who holds the secret: bytes that are no text, a run that is no number."""
    text = ".".join(["v1j", "cb_1", str(NOW_S), *stated])
    made = "v1j," + base64.b64encode(hmac.digest(v1_key(SECRET), text.encode(), "sha256")).decode()
    headers = {**headers_now(), **dict(zip(JOB_HEADERS, stated, strict=True))}
    headers["webhook-signature"] += f" {made}"
    assert reason_of(BODY, headers) == "malformed"


@pytest.mark.parametrize("job", [Job(run=0), Job(run=10**9), Job(id="\ud800"), Job(id="é" * 700)])
def test_a_job_that_no_verifier_would_read_is_not_signed(job: Job) -> None:
    """A run out of bounds, half a character, a header without end."""
    with pytest.raises(ValueError, match=r"run|surrogates|long"):
        job_headers(job)


@given(
    st.builds(
        Job,
        id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
        status=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        run=st.none() | st.integers(1, 999_999_999),
    )
)
def test_any_job_is_read_back_as_it_was(job: Job) -> None:
    """Whatever characters it consists of; and its headers are plain ASCII."""
    headers = job_signed(job=job)
    assert all(headers.get(name, "").isascii() for name in JOB_HEADERS)
    assert verify(BODY, headers, SECRET, now_s=NOW_S).job == job


@pytest.mark.parametrize("library", [Webhook, SvixWebhook])
def test_the_public_libraries_skip_the_jobs_signature(library: Any) -> None:
    """A v1j beside v1 does not disturb them."""
    at_s = int(time.time())
    headers = signed_headers(BODY, [OTHER, SECRET], message_id="cb_1", timestamp_s=at_s, job=JOB)
    library(SECRET).verify(BODY, headers)
    headers["webhook-signature"] = " ".join(reversed(headers["webhook-signature"].split(" ")))
    library(SECRET).verify(BODY, headers)


def test_a_hex_v1_of_another_dialect_is_refused() -> None:
    """Only base64 is a v1 signature; a gateway's hex form is malformed, not half accepted."""
    (vector,) = VECTORS["cerebrium"]
    headers = {
        "webhook-id": vector["id"],
        "webhook-timestamp": str(vector["timestamp"]),
        "webhook-signature": vector["signature"],
    }
    body = vector["body"].encode()
    assert reason_of(body, headers, vector["secret"], now_s=vector["timestamp"]) == "malformed"


@given(body=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_the_founding_verifier_accepts_what_we_sign(body: str) -> None:
    """The customer's existing verifier needs no change, and refuses another body."""
    made = sign_sha256(SECRET, body.encode())
    assert verify_webhook(body, made, SECRET)  # type: ignore[no-untyped-call]  # verbatim
    assert not verify_webhook(body + " ", made, SECRET)  # type: ignore[no-untyped-call]  # verbatim


@pytest.mark.parametrize("library", [Webhook, SvixWebhook])
@pytest.mark.parametrize("secret", [SECRET, OTHER])
def test_the_public_libraries_accept_what_we_sign(library: Any, secret: str) -> None:
    """With either secret of a rotation, and refuse one changed byte, id or time."""
    headers = headers_now(BODY, SECRET, OTHER, at_s=int(time.time()))
    judge = library(secret)
    judge.verify(BODY, headers)
    later = {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}
    for body, changed in ((BODY + b" ", {}), (BODY, {"webhook-id": "cb_2"}), (BODY, later)):
        with pytest.raises(WebhookVerificationError):
            judge.verify(body, {**headers, **changed})


def test_we_accept_what_the_public_library_signs() -> None:
    """A signature made by standardwebhooks verifies here."""
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(NOW_S, tz=UTC)
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(NOW_S),
        "Webhook-Signature": Webhook(SECRET).sign("msg_1", when, BODY.decode()),
    }
    assert verify(BODY, headers, [SECRET], now_s=NOW_S).message_id == "msg_1"


def test_both_schemes_pass_together() -> None:
    """What a delivery carries verifies as a whole, and the id and time are then trusted."""
    verified = verify(BODY, headers_now(), [SECRET], now_s=NOW_S)
    assert verified.schemes == ("sha256", "standard")
    assert (verified.message_id, verified.timestamp) == ("cb_1", NOW_S)


def test_an_id_is_trusted_only_under_a_valid_v1() -> None:
    """sha256= alone says nothing about an id."""
    verified = verify(BODY, {"X-Webhook-Signature": sign_sha256(SECRET, BODY)}, SECRET, now_s=0)
    assert (verified.message_id, verified.timestamp) == (None, None)


@pytest.mark.parametrize("active", [[SECRET], [OTHER], [SECRET, OTHER], [OTHER, SECRET]])
def test_a_rotation_is_accepted_with_either_secret(active: list[str]) -> None:
    """While both secrets sign, a receiver knowing only one of them verifies both schemes."""
    verified = verify(BODY, headers_now(BODY, SECRET, OTHER), active, now_s=NOW_S)
    assert verified.schemes == ("sha256", "standard")


def test_unknown_versions_beside_v1_are_ignored() -> None:
    """The list may hold v1a or newer schemes; they neither help nor hurt."""
    headers = headers_now()
    headers["webhook-signature"] = f"v1a,AAAA {headers['webhook-signature']} v9,zzz"
    assert verify(BODY, headers, SECRET, now_s=NOW_S).message_id == "cb_1"
    headers["webhook-signature"] = "v1a,AAAA"
    assert reason_of(BODY, headers) == "malformed"


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_any_standard_header_makes_v1_obligatory(missing: str) -> None:
    """Dropping one of the three does not fall back to sha256=."""
    headers = headers_now()
    del headers[missing]
    assert reason_of(BODY, headers) == "missing"


def svix(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("webhook-", "svix-"): value for name, value in headers.items()}


def test_the_headers_may_have_their_first_name() -> None:
    """`svix-*` is `webhook-*` where none of these is there: all that they vouch for, all that is
    refused, and a freshness that may be required."""
    both = signed_headers(
        BODY, (SECRET,), message_id="cb_1", timestamp_s=NOW_S, job=Job(id="job_7")
    )
    alone = {name: value for name, value in both.items() if name != "X-Webhook-Signature"}
    for headers in (svix(both), svix(alone)):
        verified = verify(BODY, headers, SECRET, now_s=NOW_S, require="standard")
        assert (verified.message_id, verified.timestamp) == ("cb_1", NOW_S)
        assert verified.job == Job(id="job_7")
        assert reason_of(BODY + b" ", headers) == "mismatch"
    assert reason_of(BODY, svix(alone), OTHER) == "mismatch"
    assert reason_of(BODY, svix(alone), now_s=NOW_S + 301) == "stale"
    assert reason_of(BODY, {**svix(alone), "svix-id": "cb_2"}) == "mismatch"
    pairs = [*svix(alone).items(), ("Svix-Id", "cb_1")]
    assert reason_of(BODY, pairs) == "ambiguous"


def test_what_svix_themselves_sign_holds() -> None:
    """By their own library, which knows both names."""
    at = datetime.fromtimestamp(NOW_S, tz=UTC)
    value = SvixWebhook(SECRET).sign("msg_1", at, BODY.decode())
    headers = {"svix-id": "msg_1", "svix-timestamp": str(NOW_S), "svix-signature": value}
    assert verify(BODY, headers, SECRET, now_s=NOW_S).message_id == "msg_1"


@pytest.mark.parametrize("name", ["svix-id", "svix-timestamp", "svix-signature"])
def test_any_of_the_first_names_makes_v1_obligatory(name: str) -> None:
    """Beside a right `sha256=`; and they count for nothing beside `webhook-*`."""
    good = headers_now()
    founding = {"X-Webhook-Signature": good["X-Webhook-Signature"]}
    assert reason_of(BODY, {**founding, name: "1"}) == "missing"
    assert verify(BODY, {**good, name: "1"}, SECRET, now_s=NOW_S).message_id == "cb_1"
    mixed = {**svix(good), "webhook-id": "cb_1"}
    assert reason_of(BODY, mixed) == "missing"


def test_a_wrong_signature_is_not_excused_by_a_right_one() -> None:
    """Every scheme that is there must hold."""
    wrong_sha = {**headers_now(), "X-Webhook-Signature": sign_sha256(OTHER, BODY)}
    assert reason_of(BODY, wrong_sha) == "mismatch"
    wrong_v1 = {**headers_now(), "webhook-signature": sign_v1(OTHER, "cb_1", NOW_S, BODY)}
    assert reason_of(BODY, wrong_v1) == "mismatch"


@pytest.mark.parametrize(
    ("require", "sha", "standard", "reason"),
    [
        ("any", False, False, "missing"),
        ("sha256", False, True, "missing"),
        ("standard", True, False, "missing"),
        ("any", True, False, None),
        ("any", False, True, None),
        ("sha256", True, False, None),
        ("sha256", True, True, None),
        ("standard", False, True, None),
    ],
)
def test_require_names_what_must_be_there(
    require: Require, sha: bool, standard: bool, reason: str | None
) -> None:
    """Headers can be stripped by an attacker; require= refuses what is left."""
    headers = {
        name: value
        for name, value in headers_now().items()
        if (sha if name.startswith("X-") else standard)
    }
    if reason is None:
        verify(BODY, headers, SECRET, now_s=NOW_S, require=require)
    else:
        assert reason_of(BODY, headers, require=require) == reason


@pytest.mark.parametrize(
    ("shift_s", "fresh"), [(-301, False), (-300, True), (300, True), (301, False)]
)
def test_the_time_window_has_two_sides(shift_s: int, fresh: bool) -> None:
    """Too old and too far in the future are both refused, to the second."""
    headers = headers_now(at_s=NOW_S + shift_s)
    if fresh:
        verify(BODY, headers, SECRET, now_s=NOW_S)
    else:
        assert reason_of(BODY, headers) == "stale"


def test_a_clock_that_is_no_number_accepts_nothing() -> None:
    """NaN compares false with everything; the window must still close."""
    assert reason_of(BODY, headers_now(), now_s=float("nan")) == "stale"
    assert reason_of(BODY, headers_now(), tolerance_s=float("nan")) == "stale"
    assert reason_of(BODY, headers_now(), now_s="1") == "malformed"


def test_names_match_in_any_case_and_shape() -> None:
    """Mappings, lists of pairs and ASGI's bytes are all read."""
    headers = headers_now()
    shapes: list[Any] = [
        {name.upper(): value for name, value in headers.items()},
        list(headers.items()),
        [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        iter([*headers.items(), (b"\xff", b"\xff"), ("other", "é")]),
    ]
    for shape in shapes:
        assert verify(BODY, shape, SECRET, now_s=NOW_S).message_id == "cb_1"


@pytest.mark.parametrize(
    "name", ["X-Webhook-Signature", "webhook-id", "webhook-timestamp", "webhook-signature"]
)
def test_a_repeated_signature_header_is_ambiguous(name: str) -> None:
    """Which of two would count depends on the server; so neither does."""
    headers = headers_now()
    assert reason_of(BODY, [*headers.items(), (name.lower(), headers[name])]) == "ambiguous"


HEX = sign_sha256(SECRET, BODY).removeprefix("sha256=")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha256=",
        HEX,
        f"sha256={HEX.upper()}",
        f"SHA256={HEX}",
        f"sha1={HEX[:40]}",
        f"sha256={HEX},sha256={HEX}",
        f"sha256={HEX} sha256={HEX}",
        f"sha256={HEX}\n",
        f"sha256={HEX}é",
        "sha256=" + "é" * 64,
        "sha256=" + "٣" * 64,
        "sha256=" + "a" * 10_000_000,
        "\ud800",
        None,
        7,
        [f"sha256={HEX}"],
    ],
)
def test_every_other_form_of_sha256_is_malformed(value: Any) -> None:
    """One form is right: sha256= and 64 lower-case hex digits, once."""
    assert reason_of(BODY, {"X-Webhook-Signature": value}) == "malformed"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("webhook-id", "", "malformed"),
        ("webhook-id", "a.b", "malformed"),
        ("webhook-id", "a b", "malformed"),
        ("webhook-id", "a" * 257, "malformed"),
        ("webhook-id", "cb_2", "mismatch"),
        ("webhook-timestamp", "", "malformed"),
        ("webhook-timestamp", "-1", "malformed"),
        ("webhook-timestamp", "1e9", "malformed"),
        ("webhook-timestamp", f"{NOW_S}.0", "malformed"),
        ("webhook-timestamp", "٣", "malformed"),
        ("webhook-timestamp", "9" * 5000, "malformed"),
        ("webhook-timestamp", str(NOW_S + 1), "mismatch"),
        ("webhook-timestamp", f"0{NOW_S}", "mismatch"),
        ("webhook-signature", "", "malformed"),
        ("webhook-signature", "v1", "malformed"),
        ("webhook-signature", "v1,", "malformed"),
        ("webhook-signature", "v1,!!!", "malformed"),
        ("webhook-signature", "v1," + "A" * 43 + "=", "mismatch"),
    ],
)
def test_every_bad_standard_header_has_its_reason(name: str, value: str, reason: str) -> None:
    """Malformed and mismatching values are told apart, and both are refused."""
    assert reason_of(BODY, {**headers_now(), name: value}) == reason


@pytest.mark.parametrize(
    "secrets",
    [
        *(None, 7, [], [""], "", " ", ["whsec_"], [SECRET, ""], [None], [b"x"], b"xy"),
        ["\ud800"],
        [SECRET] * 65,
    ],
)
def test_unusable_secrets_verify_nothing(secrets: Any) -> None:
    """An empty key would let anybody sign; one bad secret among good ones is refused loudly."""
    assert reason_of(BODY, headers_now(), secrets) == "no_secret"


def test_a_plain_text_secret_serves_sha256_only() -> None:
    """A secret that is no base64 cannot verify v1, and says so."""
    secret = "It's a Secret to Everybody"
    verify(BODY, {"X-Webhook-Signature": sign_sha256(secret, BODY)}, secret, now_s=0)
    headers = {k: v for k, v in headers_now().items() if k.startswith("webhook")}
    assert reason_of(BODY, headers, secret) == "no_secret"
    verify(BODY, headers, [secret, SECRET], now_s=NOW_S)


def test_the_v1_key_rule() -> None:
    """Base64 after whsec_, or of the whole string; padding may be missing; all else ValueError."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    for form in (SECRET, SECRET.rstrip("="), SECRET.removeprefix("whsec_")):
        assert v1_key(form) == key
    for bad in ("", "whsec_", "whsec_a", "whsec_a-b_", "whsec_ab c", "whsec_é"):
        with pytest.raises(ValueError, match="not base64"):
            v1_key(bad)


def test_a_generated_secret_serves_both_schemes() -> None:
    """It is whsec_ and 32 random bytes, new each time."""
    secret = generate_secret()
    assert secret != generate_secret()
    assert len(v1_key(secret)) == 32
    verify(BODY, headers_now(BODY, secret), secret, now_s=NOW_S)


@pytest.mark.parametrize(
    ("secret", "msg_id", "timestamp_s"),
    [("", "a", 1), ("é", "a", 1), (SECRET, "", 1), (SECRET, "a.b", 1), (SECRET, "a", -1)],
)
def test_signing_refuses_what_no_verifier_would_accept(
    secret: str, msg_id: str, timestamp_s: int
) -> None:
    """A bad secret, id or time is a ValueError of the signer."""
    with pytest.raises(ValueError, match=r"base64|id|timestamp"):
        sign_v1(secret, msg_id, timestamp_s, BODY)


def test_signing_headers_takes_one_or_two_secrets() -> None:
    """The previous secret's sha256= travels in a header of its own."""
    rotating = headers_now(BODY, SECRET, OTHER)
    assert rotating["X-Webhook-Signature"] == sign_sha256(SECRET, BODY)
    assert rotating["X-Webhook-Signature-Previous"] == sign_sha256(OTHER, BODY)
    with pytest.raises(ValueError, match="one secret"):
        signed_headers(BODY, [], message_id="cb_1", timestamp_s=NOW_S)


@given(body=st.binary(min_size=1, max_size=200), data=st.data())
def test_any_changed_byte_of_the_body_is_refused(body: bytes, data: st.DataObject) -> None:
    """By each scheme alone."""
    headers = headers_now(body)
    at = data.draw(st.integers(0, len(body) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(body)
    changed[at] ^= flip
    for require in ("x-", "webhook"):
        alone = {k: v for k, v in headers.items() if k.lower().startswith(require)}
        verify(body, alone, SECRET, now_s=NOW_S)
        assert reason_of(bytes(changed), alone) == "mismatch"


@given(name=st.sampled_from(sorted(headers_now())), data=st.data())
def test_any_changed_character_of_a_header_is_refused(name: str, data: st.DataObject) -> None:
    """Whichever header it is in: there is no second spelling of a valid signature."""
    headers = headers_now()
    value = headers[name]
    at = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.characters().filter(lambda c: c != value[at]))
    headers[name] = value[:at] + other + value[at + 1 :]
    reason_of(BODY, headers)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=8,
)
NAMES = st.sampled_from([*headers_now(), "x-webhook-signature", b"webhook-id", "Other"])


@given(
    body=ANYTHING,
    headers=ANYTHING | st.lists(st.tuples(NAMES, ANYTHING)) | st.dictionaries(NAMES, ANYTHING),
    secrets=ANYTHING,
    now_s=ANYTHING,
    require=st.sampled_from(["any", "sha256", "standard", "none", None, []]),
)
def test_garbage_raises_signature_error_and_nothing_else(
    body: Any, headers: Any, secrets: Any, now_s: Any, require: Any
) -> None:
    """Whatever the types and shapes of the arguments."""
    for good_body, good_secrets, good_now in ((body, secrets, now_s), (BODY, SECRET, NOW_S)):
        with pytest.raises(SignatureError) as caught:
            verify(good_body, headers, good_secrets, now_s=good_now, require=require)
        assert SECRET not in repr(caught.value)


def test_a_callers_object_that_raises_is_malformed() -> None:
    """Even an iterable that fails half-way is a SignatureError."""

    def broken() -> Iterator[tuple[str, str]]:
        yield "webhook-id", "cb_1"
        raise RuntimeError

    assert reason_of(BODY, broken()) == "malformed"
    assert reason_of(BODY, [("a", "b")] * 1001) == "malformed"
    assert reason_of(BODY, headers_now(), broken()) == "no_secret"


def test_an_error_never_tells_a_secret_or_the_right_signature() -> None:
    """Neither in its text nor in its repr."""
    headers = {**headers_now(), "X-Webhook-Signature": sign_sha256(OTHER, BODY)}
    with pytest.raises(SignatureError) as caught:
        verify(BODY, headers, SECRET, now_s=NOW_S)
    told = repr(caught.value) + str(caught.value)
    assert HEX not in told
    assert SECRET not in told


def test_the_file_works_alone_copied_elsewhere(tmp_path: Path) -> None:
    """Standard library only: it runs isolated from every installed package."""
    copy = tmp_path / "copied_signature.py"
    copy.write_bytes(Path(signature.__file__).read_bytes())
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import copied_signature as s;"
        "k = s.generate_secret(); h = s.signed_headers(b'x', [k], message_id='a', timestamp_s=1);"
        "print(s.verify(b'x', h, k, now_s=1).message_id)"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("a", "")


@pytest.mark.parametrize("size", [1, 24, 63, 64, 65, 200])
def test_a_prepared_secret_signs_as_one_that_is_not(size: int) -> None:
    """Whatever its length, and however often."""
    secret = "whsec_" + base64.b64encode(bytes(range(size))).decode()
    signer, job = signature.Signer(secret), signature.Job(id="job_1", status="failed", run=2)
    for body in (b"", b"{}", b"x" * 10_000):
        assert signer.sha256(body) == signature.sign_sha256(secret, body)
        assert signer.standard("msg_1", 7, body, signature.job_headers(job)) == (
            signature.sign_v1(secret, "msg_1", 7, body),
            signature.sign_v1j(secret, "msg_1", 7, job),
        )


def test_a_prepared_secret_that_is_not_base64_signs_the_body_alone() -> None:
    signer = signature.Signer("plain text, no base64!")
    assert not signer.is_standard
    assert signer.sha256(b"{}") == signature.sign_sha256("plain text, no base64!", b"{}")
    with pytest.raises(ValueError, match="base64"):
        signer.standard("msg_1", 7, b"{}", {})
    with pytest.raises(ValueError, match="empty"):
        signature.Signer("")
