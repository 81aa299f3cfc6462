"""jobs/told.py: the callback of a job's end: its payload, its key, its policy."""

import json
import time
from dataclasses import replace
from hashlib import sha256
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import ids
from dispatcher.dialects import cerebrium, runpod
from dispatcher.dialects.callbacks import callback_of
from dispatcher.jobs.endpoint import CallbackDefaults, Keep
from dispatcher.jobs.judge import judge
from dispatcher.jobs.states import FINAL, JobReason
from dispatcher.jobs.told import (
    ERROR_BYTES_MAX,
    End,
    as_text,
    callback_policy,
    cost_of,
    end_of,
    is_json,
    output_expires_ms,
    spliced,
)
from dispatcher.jobs.values import CallbackTarget, ClaimedJob, Dialect, JobOptions, Output
from dispatcher.policy import PRESETS
from dispatcher.values import NewCallback
from receiver.base.clock import iso
from receiver.base.completion import TERMINAL, canonical, is_job_id, parse, status_in
from receiver.signature import Job
from receiver.verification import identity
from receiver.verification.identity import identify
from tests.dispatcher.jobs.made import ID, NOW_MS, job, outcome, rules
from tests.dispatcher.jobs.test_judge import outcomes

URL = "https://host/hook"
TARGET = CallbackTarget(
    url=URL,
    destination_name=None,
    destination=ids.destination_id("acme", url=URL),
    lane=ids.lane_id("acme", URL),
    headers=(("x-token", "t"),),
    policy_text="runpod",
    policy=PRESETS["runpod"],
)
INLINE = 256 * 1024
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


def of(callback: CallbackTarget | None = TARGET, **fields: Any) -> ClaimedJob:
    return job(**fields, options=JobOptions(callback=callback))


def told(end: End, of_job: ClaimedJob | None = None, inline_max: int = INLINE) -> NewCallback:
    made = callback_of(
        of_job or of(),
        end,
        id="cb_1",
        now_ms=NOW_MS,
        inline_max=inline_max,
        public_url="https://postback.example/",
    )
    assert made is not None
    return made


def payload(end: End, of_job: ClaimedJob | None = None, inline_max: int = INLINE) -> dict[str, Any]:
    document = parse(told(end, of_job, inline_max).body)
    assert isinstance(document, dict)
    return document


def output(body: bytes, content_type: str = "application/json") -> Output:
    return Output(body=body, content_type=content_type)


def completed(body: bytes, content_type: str = "application/json", **fields: Any) -> End:
    return End(state="completed", status_code=200, output=output(body, content_type), **fields)


# --- the shape ---


def test_it_has_the_seeds_keys_and_the_run_and_the_endpoint() -> None:
    """Its callback has TensorOne's shape (`jobId`, `status`, `output`, `executionTime` in seconds,
    `completedAt`, `cost`, `tags`, `error`) plus `run` and `endpoint`."""
    one = of(run=2, tags=(("userId", "user_123"), ("team", "ä")))
    document = payload(completed(b'{"url": "https://host/a.pdf"}', cost=0.026), one)
    assert document == {
        "jobId": f"job_{ID}",
        "status": "completed",
        "output": {"url": "https://host/a.pdf"},
        "executionTime": 10.0,
        "completedAt": iso(NOW_MS),
        "cost": 0.026,
        "tags": {"userId": "user_123", "team": "ä"},
        "run": 2,
        "endpoint": "ep_document_gen",
    }


def test_a_failed_one_has_the_upstreams_words() -> None:
    end = End(state="failed", reason="rejected", status_code=500, output=output(b'{"detail":"no"}'))
    document = payload(end)
    assert (document["status"], document["output"]) == ("failed", None)
    assert document["error"] == '{"detail":"no"}'


@pytest.mark.parametrize("state", sorted(FINAL - {"completed"}))
@pytest.mark.parametrize("reason", [None, *get_args(JobReason)])
def test_every_other_end_says_why(state: Any, reason: JobReason | None) -> None:
    document = payload(End(state=state, reason=reason))
    assert document["status"] == state
    assert document["error"]
    assert payload(End(state=state, reason=reason, error="why\nnot"))["error"] == "why not"


def test_one_that_never_ran_took_no_time() -> None:
    end = End(state="timeout", reason="expired")
    one = replace(of(), started_ms=NOW_MS + 5)
    assert payload(end, one)["executionTime"] == 0


def test_who_asked_for_no_callback_gets_none() -> None:
    end = completed(b"{}")
    for one in (of(callback=None), job()):
        assert (
            callback_of(one, end, id="cb_1", now_ms=NOW_MS, inline_max=1, public_url="http://h")
            is None
        )


# --- what stands beside the payload ---


def test_it_is_one_of_its_run_and_goes_where_its_submit_said() -> None:
    """Key = digest("job", id, run); URL, destination, policy and headers are checked at the job's
    submit and stored with it."""
    made = told(completed(b"{}"), of(run=3, priority="high", tags=(("a", "b"),)))
    assert made.id == "cb_1"
    assert (made.job_id, made.job_status, made.run) == (f"job_{ID}", "completed", 3)
    assert (made.key, made.explicit_key) == (ids.end_key(ID, 3), True)
    assert (made.url, made.destination, made.lane) == (URL, TARGET.destination, TARGET.lane)
    assert (made.headers, made.policy_text) == (TARGET.headers, "runpod")
    assert (made.priority, made.tags, made.tenant) == ("high", (("a", "b"),), "acme")
    assert made.body_sha256 == sha256(made.body).digest()
    assert told(completed(b"{}"), of(priority="low")).priority == "normal"
    assert told(completed(b"{}"), of(run=4)).key != made.key


@pytest.mark.parametrize("dialect", DIALECTS)
def test_its_job_is_spelled_as_the_dialect_by_which_it_came(dialect: Dialect) -> None:
    """`X-Postback-Job-Id` is the spelling of the dialect by which the job came."""
    made = told(completed(b"{}"), of(dialect=dialect))
    assert made.job_id == ids.spelled(ID, dialect)


@pytest.mark.parametrize(
    ("asked", "written", "dialect", "policy"),
    [
        ("standard-webhooks", "cerebrium", "runpod", "standard-webhooks"),
        (None, "standard-webhooks", "runpod", "standard-webhooks"),
        (None, None, "runpod", "runpod"),
        (None, None, "cerebrium", "cerebrium"),
        (None, None, "v1", None),
        (None, None, "tensorone", None),
    ],
)
def test_the_policy(
    asked: str | None, written: str | None, dialect: Dialect, policy: str | None
) -> None:
    """Callback policy = the request's, else the endpoint's `callback.policy` if written, else the
    dialect's preset (RunPod `runpod`, Cerebrium `cerebrium`, others `exponential`)."""
    by = rules(callback=CallbackDefaults(policy=written))
    assert callback_policy(asked, by, dialect) == policy


def test_an_end_is_made_of_a_verdict() -> None:
    by = rules(price_per_second=0.0026, keep=Keep(output=3_600))
    met = outcome(body=b"{}", lasted_s=10)
    verdict = judge(met, of(), by, now_ms=NOW_MS, random=0)
    end = end_of(verdict, met, by, now_ms=NOW_MS)
    assert end == End(
        state="completed",
        status_code=200,
        output=met.output,
        expires_ms=NOW_MS + 3_600_000,
        cost=0.026,
    )
    again = judge(outcome("unknown"), of(), by, now_ms=NOW_MS, random=0)
    assert end_of(again, outcome("unknown"), by, now_ms=NOW_MS) is None
    assert cost_of(rules(), 10_000) == 0


def test_outputs_expire_after_a_week_at_most() -> None:
    """`expiresAt` is the earlier of 604,800 s and the endpoint's `keep.output`."""
    week = 604_800_000
    assert output_expires_ms(rules(), 0) == week
    assert output_expires_ms(rules(keep=Keep(output=9 * 86_400)), 0) == week
    assert output_expires_ms(rules(keep=Keep(output=60)), 0) == 60_000


# --- outputs ---


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        (b' {"a":  1.50}\n', "application/json", {"a": 1.5}),
        (b"\xef\xbb\xbf[1]", "application/json; charset=utf-8", [1]),
        (b"7", "application/vnd.api+json", 7),
        (b"null", "application/json", None),
        (b'"x"', "Application/JSON", "x"),
        ("grüße".encode(), "text/plain", "grüße"),
        ("grüße".encode("latin-1"), "text/plain; charset=ISO-8859-1", "grüße"),
        (b"<a/>", "application/atom+xml", "<a/>"),
        (b'{"a":1', "application/json", '{"a":1'),
        (b'{"a":1,"a":2}', "application/json", '{"a":1,"a":2}'),
        (b"[NaN]", "application/json", "[NaN]"),
        (b'["\\u0000"]', "application/json", '["\\u0000"]'),
        (b"[" * 64 + b"]" * 64, "application/json", "[" * 64 + "]" * 64),
        (b'{"a":1}', "text/plain", '{"a":1}'),
        (b"", "application/json", None),
    ],
)
def test_json_is_spliced_as_it_stands_and_text_is_a_string(
    body: bytes, content_type: str, value: Any
) -> None:
    """Views carry JSON answers as they are, `text/*` as a string; a 2xx body that claims JSON and
    is none is kept as text."""
    assert payload(completed(body, content_type))["output"] == value


def test_json_is_never_written_again() -> None:
    """Spliced, never re-serialised."""
    exact = b'{"n":  1.50, "big": 12345678901234567890.0, "s":"\\/"}'
    assert exact in told(completed(b" \n" + exact + b" ")).body


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\x89PNG", "image/png"),
        (b"\xff\xfe", "application/json"),
        (b"\xff", "text/plain"),
        (b"a\0b", "text/plain"),
        (b"abc", "text/plain; charset=utf-16"),
        (b"abc", ""),
        (b'"' + b"x" * 100 + b'"', "application/json"),
        (b"x" * 101, "text/plain"),
        (b"\x01" * 50, "text/plain"),
    ],
)
def test_anything_else_or_larger_is_a_reference(body: bytes, content_type: str) -> None:
    """Anything else or larger than the limit as
    `{"url","size","contentType","sha256","expiresAt"}`."""
    end = completed(body, content_type, expires_ms=NOW_MS + 1)
    assert payload(end, inline_max=100)["output"] == {
        "url": f"https://postback.example/v1/jobs/job_{ID}/output",
        "size": len(body),
        "contentType": content_type,
        "sha256": sha256(body).hexdigest(),
        "expiresAt": iso(NOW_MS + 1),
    }


def test_an_error_is_cut_between_characters() -> None:
    body = b"x" + "ü".encode() * ERROR_BYTES_MAX
    end = End(state="failed", reason="rejected", output=output(body, "text/plain"))
    text = payload(end)["error"]
    assert text == "x" + "ü" * (ERROR_BYTES_MAX // 2 - 1)
    broken = replace(end, output=output(b"\xff" + body, "text/plain"), status_code=500)
    assert payload(broken)["error"] == "the upstream answered 500"
    assert as_text(output(b"a\xff", "text/plain"), 10) is None


# --- whatever happens, a receiver takes it ---

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
types = st.sampled_from(
    ["application/json", "text/plain", "text/html; charset=latin-1", "image/png", "", ";",
     "a/b+json",
     "application/json;charset=\"x", "\0", "text/plain\r\nx: y"]
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
bodies = (
    st.binary(max_size=60)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [b"[" * 100_000, b"[" * 63 + b"]" * 63, b"9" * 200, b"1e999", b'{"a":1,"a":1}',
         b'"\\ud800"',
         b'"\\ud83d\\ude00"', b'"\\u0000"', b"\xed\xa0\x80", b"NaN", b"1 2", b"\xef\xbb\xbf"]
    )
)  # fmt: skip


@st.composite
def ends(draw: st.DrawFn) -> End:
    met = draw(outcomes())
    body = draw(bodies)
    if draw(st.booleans()):
        met = replace(met, output=Output(body=body, content_type=draw(types)))
    by = rules(price_per_second=draw(st.none() | st.floats(0, 1e6)))
    verdict = judge(met, of(tries=9), by, now_ms=NOW_MS, random=0)
    if verdict.state == "queued":
        reason = draw(st.sampled_from(get_args(JobReason)))
        state = draw(st.sampled_from(sorted(FINAL)))
        return End(state=state, reason=reason, output=met.output, error=draw(st.none() | texts))
    end = end_of(verdict, met, by, now_ms=NOW_MS)
    assert end is not None
    return end


@given(
    ends(),
    st.builds(
        of,
        dialect=st.sampled_from(DIALECTS),
        run=st.integers(1, 1_000_000),
        tags=st.lists(st.tuples(texts, texts), max_size=3, unique_by=lambda tag: tag[0]).map(tuple),
        started_ms=st.integers(NOW_MS - 10**9, NOW_MS + 10**6),
    ),
    st.integers(0, 200),
)
def test_our_own_receiver_takes_every_one_of_them(
    end: End, one: ClaimedJob, inline_max: int
) -> None:
    """A callback for every final state, in every dialect; nothing may refuse at the end. Signed
    headers say what it is about, and a body that is a document says the same."""
    made = told(end, one, inline_max)
    assert (made.job_status, made.run) == (end.state, one.run)
    assert canonical(end.state) in TERMINAL
    assert is_job_id(made.job_id)
    signed = Job(id=made.job_id, status=made.job_status, run=made.run)
    for dialect in identity.DIALECTS:
        seen = identify(made.body, made.id, job=signed, dialect=dialect)
        assert (seen.job_id, seen.status, seen.run) == (made.job_id, end.state, one.run)
    if one.dialect == "cerebrium":  # the upstream's own words, whatever they are
        answer = cerebrium.answer(end)
        if answer is not None and len(answer.body) <= inline_max:
            assert made.body == answer.body
        else:
            assert isinstance(parse(made.body), dict)
        return
    document = parse(made.body)
    assert document.get("run", one.run) == made.run == one.run
    seen = identify(made.body, None)
    assert seen.status == document["status"] == status_in(made.body)
    assert (seen.job_id, canonical(seen.status)) == (made.job_id, canonical(end.state))
    assert ("error" in document) == (end.state != "completed")
    if one.dialect == "runpod":
        assert (document["id"], document["status"]) == (made.job_id, runpod.STATUS[end.state])
        assert document.get("retries", 0) == one.run - 1
    else:
        assert (document["jobId"], document["status"]) == (made.job_id, end.state)
        assert document["tags"] == dict(one.tags)
    held = len(json.dumps(document.get("output"), ensure_ascii=False).encode())
    assert held <= 3 * max(inline_max, 300)


@given(bodies, types, st.integers(0, 300))
def test_what_is_spliced_is_read_alike(body: bytes, content_type: str, bytes_max: int) -> None:
    value = spliced(Output(body=body, content_type=content_type), bytes_max)
    if value is not None:
        assert len(value) <= bytes_max
        parse(b'{"output":' + value + b"}")
        if not is_json(content_type):
            assert isinstance(parse(value), str)


@pytest.mark.parametrize("is_json", [True, False])
def test_a_long_output_that_is_asked_for_again_and_again_is_read_once(is_json: bool) -> None:
    """Nothing but tiny values take a part of a second to look at, which nobody else should wait for
    at each look; what is shown is the same."""
    body = b"[" + b",".join([b"[]"] * 340_000) + (b"]" if is_json else b"")
    output = Output(body=body, content_type="application/json")
    shown = spliced(output, 2**20)
    assert shown == (body if is_json else b'"%b"' % body)
    begun_s = time.process_time()
    for _ in range(20):
        assert spliced(output, 2**20) == shown
    assert time.process_time() - begun_s < 1.0
