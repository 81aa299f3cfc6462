"""jobs/rules.py and jobs/fields.py: an endpoint's fields, in both spellings, and back."""

import json
from collections.abc import Iterator
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.jobs.endpoint import (
    CallbackDefaults,
    EndpointRules,
    HealthCheck,
    Keep,
    LocalRef,
    StopCall,
    Wake,
    dump_rules,
    load_rules,
)
from dispatcher.jobs.fields import (
    RuleError,
    camel,
    duration,
    size,
    written_duration,
    written_size,
)
from dispatcher.jobs.rules import (
    FIELDS,
    check_name,
    check_url,
    document_of,
    header_names,
    merged,
    read,
)
from dispatcher.jobs.schema import InputSchema
from dispatcher.policy import Policy, load
from dispatcher.settings import UPSTREAM_PREFIX
from dispatcher.values import SecretRef

URL = "http://127.0.0.1:9000/generate"
SCHEMA = {"type": "object", "required": ["pages"]}
# The guide's table, less what comes later.
WRITTEN: dict[str, Any] = {
    "url": URL,
    "kind": "http",
    "method": "POST",
    "body": "auto",
    "concurrency": 4,
    "rate": 10.0,
    "adaptive": True,
    "timeout": 900,
    "timeout_max": 43_200,
    "queue_timeout": 86_400,
    "delivery": "at-least-once",
    "attempts": 3,
    "retry_on": ["unknown", 502, 504],
    "repeat_within": 30,
    "busy": [429],
    "completion": "response",
    "functions": ["run"],
    "priority_scope": "customer",
    "on_disconnect": "cancel",
    "schema": SCHEMA,
    "cool_down": 0,
    "queue_max": 100_000,
    "queue_max_tenant": 1_000,
    "input_max": "10MiB",
    "output_max": "100MiB",
    "expected_output": "20MiB",
    "keep": {"input": "7d", "output": "7d", "job": "30d"},
    "headers": {"Authorization": "env:DISPATCHER_UPSTREAM_TOKEN"},
    "signing_secret": "file:model.key",
    "cancel": "close",
    "progress": True,
    "retry": {"base": 1, "factor": 2, "cap": 60},
    "callback": {"policy": "runpod", "destination": "billing", "events": ["end"]},
    "price": {"per_second": 0.0026},
    "expected_duration": 60,
    "heartbeat_timeout": 60,
    "health": {"path": "/health", "every": 10},
    "wake": {"url": "http://127.0.0.1:9100/wake", "every": 30},
    "tenants": ["*"],
}
RULES = EndpointRules(
    url=URL,
    rate=10.0,
    timeout=900,
    timeout_max=43_200,
    schema=InputSchema(SCHEMA),
    headers=(("Authorization", LocalRef("env", "DISPATCHER_UPSTREAM_TOKEN")),),
    signing_secret=LocalRef("file", "model.key"),
    callback=CallbackDefaults(policy="runpod", destination="billing"),
    price_per_second=0.0026,
    expected_duration=60,
    expected_output=20 * 1_048_576,
    heartbeat_timeout=60,
    health=HealthCheck(path="/health"),
    wake=Wake(url="http://127.0.0.1:9100/wake"),
)


def camelled(document: dict[str, Any]) -> dict[str, Any]:
    """A document of the file as the API takes it."""
    inner = {"keep", "retry", "callback", "price", "health", "wake"}
    return {
        camel(name): {camel(one): given for one, given in value.items()} if name in inner else value
        for name, value in document.items()
    }


def refused(**document: Any) -> RuleError:
    with pytest.raises(RuleError) as caught:
        read({"url": URL} | document)
    return caught.value


# --- both spellings ---


def test_the_table_is_read_as_the_file_spells_it() -> None:
    """What describes an endpoint: the fields with their defaults."""
    assert read(WRITTEN, spelling="snake", managed=True) == RULES


def test_the_table_is_read_as_the_api_spells_it() -> None:
    """Spelling: camelCase in the API, snake_case in the file; the same fields."""
    assert read(camelled(WRITTEN), managed=True) == RULES


def test_what_is_not_written_has_the_tables_default() -> None:
    assert read({"url": URL}) == EndpointRules(url=URL)
    assert read({"url": URL} | dict.fromkeys(map(camel, FIELDS - {"url"}))) == EndpointRules(
        url=URL
    )
    defaults = {
        name: value
        for name, value in WRITTEN.items()
        if name not in {"rate", "timeout", "timeout_max", "schema", "headers", "signing_secret",
                        "callback", "price", "expected_duration", "expected_output",
                        "heartbeat_timeout", "health", "wake"}
    }  # fmt: skip
    assert read(defaults, spelling="snake") == EndpointRules(url=URL)


def test_every_field_is_named_in_one_spelling() -> None:
    assert refused(queue_timeout=1).field == "queue_timeout"
    with pytest.raises(RuleError, match="queueTimeout"):
        read({"url": URL, "queueTimeout": 1}, spelling="snake")


def test_the_url_is_required() -> None:
    with pytest.raises(RuleError, match="url: is required"):
        read({})


@pytest.mark.parametrize("document", [None, [], "x", {1: 2}])
def test_a_document_is_an_object(document: Any) -> None:
    with pytest.raises(RuleError, match="must be an object"):
        read(document)


# --- unknown and later fields ---


@pytest.mark.parametrize(
    ("name", "near"),
    [("concurency", "concurrency"), ("timeOut", "timeout"), ("queueTimout", "queueTimeout"),
     ("zzz", None)],
)  # fmt: skip
def test_an_unknown_field_is_refused_with_the_nearest(name: str, near: str | None) -> None:
    """Unknown fields refused with the nearest name."""
    reason = refused(**{name: 1}).reason
    assert ("did you mean" in reason) == (near is not None)
    assert near is None or f"did you mean {near}?" in reason


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("kind", "grpc", "must be http or runpod or cog"),
        ("completion", "never", "must be"),
        ("cancel", "stop", "must be close"),
        ("cancel", {"method": "GET", "path": "/x"}, "must be POST"),
        ("cancel", {"method": "POST"}, "needs `path`"),
        ("cancel", {"path": "/x", "url": URL}, "needs `path`"),
        ("cancel.path", "stop", "must begin with /"),
        ("cancel.path", "//elsewhere/stop", "must begin with /"),
        ("cancel.url", "ftp://elsewhere", "must be http"),
        ("coolDown", -1, "must be"),
        ("coolDown", False, "must be"),
        ("progress", 0, "must be"),
        ("health", {"every": 10}, "is required"),
        ("health.path", "health", "must begin with /"),
        ("health", {"path": "/health", "every": 0}, "must be from 1 to 1d"),
        ("wake", {"every": 30}, "is required"),
        ("wake.url", "here", "must be http"),
        ("callback.events", ["begin", "end"], "must be"),
    ],
)
def test_what_is_not_possible_is_refused_with_what_is(field: str, value: Any, reason: str) -> None:
    outer, _, inner = field.partition(".")
    error = refused(**{outer: {inner: value} if inner else value})
    assert error.field.startswith(field)
    assert reason in error.reason


def test_what_upstreams_may_tell_is_read_and_shown() -> None:
    """Completion by URL, signs of life and events: in both spellings, and kept as they are."""
    rules = read(
        {"url": URL, "completion": "url", "heartbeatTimeout": "1m",
         "callback": {"events": ["start", "progress", "end"]}}
    )  # fmt: skip
    assert (rules.completion, rules.heartbeat_timeout) == ("url", 60)
    assert rules.callback.events == ("start", "progress", "end")
    assert load_rules(dump_rules(rules)) == rules
    assert read(document_of(rules)) == rules


def test_what_stops_wakes_and_tells_how_an_upstream_is_is_read_and_shown() -> None:
    """`cancel`, `cool_down`, `health`, `wake` and `kind`: in both spellings, and kept as they are;
    a change changes them one by one, but a cancel is a path or a URL."""
    written = {
        "url": URL,
        "kind": "runpod",
        "cancel": {"method": "DELETE", "path": "/jobs/{jobId}?force=1"},
        "coolDown": "30s",
        "health": {"path": "/health", "every": "1m", "timeout": 2, "failures": 3},
        "wake": {"url": "http://127.0.0.1:9100/wake", "every": 45},
    }
    rules = read(written)
    assert rules.kind == "runpod"
    assert rules.cancel == StopCall(method="DELETE", path="/jobs/{jobId}?force=1")
    assert rules.cool_down == 30
    assert rules.health == HealthCheck(path="/health", every=60, timeout=2, failures=3)
    assert rules.wake == Wake(url="http://127.0.0.1:9100/wake", every=45)
    assert load_rules(dump_rules(rules)) == rules
    assert read(document_of(rules)) == rules
    assert read(document_of(rules, "snake"), spelling="snake") == rules
    changed = read(merged(rules, {"health": {"every": 5}, "cancel": {"url": URL}, "wake": None}))
    assert changed.health == HealthCheck(path="/health", every=5, timeout=2, failures=3)
    assert (changed.cancel, changed.wake) == (StopCall(url=URL), None)
    assert read(merged(rules, {"cancel": "close"})).cancel is None


def test_a_kind_that_needs_something_says_so() -> None:
    """A cog server ends its jobs by URL; a kind has one route, so none is named."""
    assert "progress must be true" in refused(kind="cog", progress=False).reason
    assert "{function}" in refused(kind="runpod", url="http://127.0.0.1/{function}").reason


@pytest.mark.parametrize("more", [{"completion": "url"}, {"heartbeatTimeout": 60}])
def test_what_needs_the_urls_of_a_call_is_refused_without_them(more: Any) -> None:
    assert "progress = false" in refused(progress=False, **more).reason


def test_outputs_and_inputs_may_be_of_any_size() -> None:
    """What is long is kept as it comes: by default outputs of 100 MiB are taken."""
    assert read({"url": URL}).output_max == 100 * 1_048_576
    large = read({"url": URL, "outputMax": "200GiB", "inputMax": "1GiB", "expectedOutput": 0})
    assert (large.output_max, large.input_max, large.expected_output) == (200 << 30, 1 << 30, 0)
    assert refused(outputMax="257GiB").reason == "must be at most 256GiB"


# --- limits ---


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 65_537}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"concurrency": "4"}, "concurrency"),
        ({"rate": 0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": True}, "rate"),
        ({"adaptive": 1}, "adaptive"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "8d"}, "timeout"),
        ({"timeout": "15 minutes"}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": "2h", "timeoutMax": "1h"}, "timeout"),
        ({"queueTimeout": 0}, "queueTimeout"),
        ({"delivery": "exactly-once"}, "delivery"),
        ({"delivery": ["at-most-once"]}, "delivery"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": 51}, "attempts"),
        ({"retryOn": "unknown"}, "retryOn"),
        ({"retryOn": ["lost"]}, "retryOn[0]"),
        ({"retryOn": [502, 200]}, "retryOn[1]"),
        ({"retryOn": [502, 502]}, "retryOn"),
        ({"retryOn": [True]}, "retryOn[0]"),
        ({"busy": [302]}, "busy[0]"),
        ({"busy": list(range(400, 421))}, "busy"),
        ({"functions": []}, "functions"),
        ({"functions": ["../x"]}, "functions[0]"),
        ({"method": "GET"}, "method"),
        ({"method": "post"}, "method"),
        ({"body": "json"}, "body"),
        ({"priorityScope": "global"}, "priorityScope"),
        ({"onDisconnect": "ignore"}, "onDisconnect"),
        ({"queueMax": -1}, "queueMax"),
        ({"inputMax": "257GiB"}, "inputMax"),
        ({"inputMax": "1.5"}, "inputMax"),
        ({"inputMax": "1MB"}, "inputMax"),
        ({"outputMax": 0}, "outputMax"),
        ({"keep": "7d"}, "keep"),
        ({"keep": {"inputs": "7d"}}, "keep.inputs"),
        ({"keep": {"input": "31d"}}, "keep.input"),
        ({"keep": {"output": "4000d"}}, "keep.output"),
        ({"retry": {"factor": 0.5}}, "retry.factor"),
        ({"retry": {"cap": 0.5}}, "retry.cap"),
        ({"retry": {"base": -1}}, "retry.base"),
        ({"price": {"perSecond": -1}}, "price.perSecond"),
        ({"price": 1}, "price"),
        ({"expectedDuration": 0}, "expectedDuration"),
        ({"signingSecret": "file:model.key"}, "signingSecret"),
        ({"tenants": []}, "tenants"),
        ({"tenants": ["a b"]}, "tenants[0]"),
        ({"callback": {"policy": "runpodd"}}, "callback.policy"),
        ({"callback": {"destination": "a b"}}, "callback.destination"),
        ({"callback": {"policy": {"delays": [1]}}}, "callback.policy.attempts"),
        ({"callback": {"policy": {"attempts": 3, "retry": [410]}}}, "callback.policy.retry"),
        ({"callback": {"policy": {"attempts": 3, "timeout": 61}}}, "callback.policy.timeout"),
        ({"schema": True}, "schema"),
        ({"schema": {"type": "objekt"}}, "schema.type"),
        ({"schema": {"properties": {"a": {"$ref": "http://x/y"}}}}, "schema.properties.a.$ref"),
        ({"headers": ["a"]}, "headers"),
        ({"headers": {"a": 1}}, "headers.a"),
        ({"headers": {"a b": "x"}}, "headers.a b"),
        ({"headers": {"a": "x\ny"}}, "headers.a"),
        ({"headers": {"a": "x", "A": "y"}}, "headers.A"),
        ({"headers": {f"x-{n}": "x" for n in range(17)}}, "headers"),
    ],
)  # fmt: skip
def test_every_limit_is_an_error_that_names_the_field(document: Any, field: str) -> None:
    """Every limit a clear 4xx; details{field, value, reason}, the field's path dotted."""
    error = refused(**document)
    assert error.field == field
    assert error.reason
    assert str(error) == f"{field}: {error.reason}"


@pytest.mark.parametrize(
    "name",
    ["Content-Length", "transfer-encoding", "Connection", "Expect", "Idempotency-Key", "X-Job-Id",
     "x-job-anything", "svix-id", "webhook-id", "X-Postback-Job-Run", "Proxy-Authorization",
     "X-Webhook-Signature"],
)  # fmt: skip
def test_headers_that_are_ours_or_the_connections_are_refused(name: str) -> None:
    assert refused(headers={name: "x"}).field == f"headers.{name}"


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:9000", "ftp://host/", "http://", "http://host:0/", "http://host:99999/",
     "http://user:secret@host/", "http://host/#x", "http://ho st/", "http://host/ü",
     "http://{function}/", "http://[::1/", "http://host/" + "x" * 2_048, None, 7],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: Any) -> None:
    with pytest.raises(RuleError) as caught:
        check_url(url)
    assert caught.value.field == "url"
    assert "secret" not in str(caught.value)
    assert caught.value.value is None or "secret" not in str(caught.value.value)


def test_a_function_has_its_place_in_the_url() -> None:
    check_url("https://host:8443/v1/{function}?x={function}")
    check_url("http://[::1]:9000/")


@pytest.mark.parametrize("name", ["ep_document_gen", "a", "A-1", "x" * 64])
def test_names_of_endpoints(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-a", "_a", "a.b", "a/b", "x" * 65, "ä", "a\n", None, 1, "endpoints", "jobs", "projects",
     "outputs"],
)  # fmt: skip
def test_reserved_and_unfit_names_are_refused(name: Any) -> None:
    """Reserved endpoint names: `endpoints jobs projects outputs`; names match
    `[A-Za-z0-9][A-Za-z0-9_-]{0,63}`."""
    with pytest.raises(RuleError) as caught:
        check_name(name)
    assert caught.value.field == "name"


# --- values of headers ---


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("plain", "plain"),
        ("secret:gpu-box", SecretRef("gpu-box")),
        ("Bearer secret:gpu-box", SecretRef("gpu-box", "Bearer ")),
        ("env:DISPATCHER_UPSTREAM_TOKEN", LocalRef("env", "DISPATCHER_UPSTREAM_TOKEN")),
        ("Bearer file:gpu/token", LocalRef("file", "gpu/token", "Bearer ")),
        ("secret::x", "secret:x"),
        ("a file::x env::y", "a file:x env:y"),
        ("profile:x", "profile:x"),
    ],
)
def test_what_a_headers_value_names(value: str, kept: Any) -> None:
    """`secret:NAME` through the API; `env:` and `file:` only from entries of the server's file."""
    document = {"url": URL, "headers": {"x-token": value}}
    rules = read(document, managed=True)
    assert rules.headers == (("x-token", kept),)
    assert header_names(rules) == ["x-token"]
    if isinstance(kept, LocalRef):
        with pytest.raises(RuleError, match="the server's own file alone"):
            read(document)
    else:
        assert read(document) == rules


@pytest.mark.parametrize(
    "value",
    ["env:PATH", "env:dispatcher_upstream_x", "secret:", "secret:a b", "x y secret:a", "secret:a/b",
     "secret:a file:b", "file:"],
)  # fmt: skip
def test_references_that_name_nothing_are_refused(value: str) -> None:
    """`env:` only names that begin with `DISPATCHER_UPSTREAM_`."""
    with pytest.raises(RuleError) as caught:
        read({"url": URL, "headers": {"x-token": value}}, managed=True)
    assert caught.value.field == "headers.x-token"
    assert caught.value.value is None


def test_the_prefix_is_the_settings() -> None:
    with pytest.raises(RuleError, match=UPSTREAM_PREFIX):
        read({"url": URL, "headers": {"a": "env:HOME"}}, managed=True)


def test_no_error_shows_a_headers_value() -> None:
    """Headers are never shown."""
    error = refused(headers={"Authorization": "Bearer sk-1234\x7f"})
    assert "sk-1234" not in f"{error!r} {error} {error.value}"


# --- and back ---


def test_rules_are_shown_in_full_and_read_back() -> None:
    for spelling in ("camel", "snake"):
        shown = document_of(RULES, spelling)
        assert json.loads(json.dumps(shown)) == shown
        again = read(shown, spelling=spelling)
        assert again == replace(RULES, headers=(), signing_secret=None)
    shown = document_of(RULES)
    assert "headers" not in shown
    assert shown["queueTimeout"] == "1d"
    assert shown["inputMax"] == "10MiB"
    assert shown["keep"] == {"input": "7d", "output": "7d", "job": "30d"}
    assert shown["price"] == {"perSecond": 0.0026}


def test_a_policy_of_ones_own_is_read_and_shown() -> None:
    policy = {"attempts": 5, "exponential": {"base": 1, "factor": 3, "cap": "1h"}, "maxAge": "2d",
              "turnedAway": "try", "retry": [404], "acknowledge": [200]}  # fmt: skip
    rules = read({"url": URL, "callback": {"policy": policy}})
    assert load(rules.callback.policy) == Policy(
        attempts=5,
        base=1,
        factor=3,
        cap=3_600,
        max_age=172_800,
        turned_away="try",
        retry=frozenset({404}),
        acknowledge=frozenset({200}),
    )
    assert read(document_of(rules)) == rules
    waits = read({"url": URL, "callback": {"policy": {"attempts": 3, "delays": ["5s", 5, "1m"]}}})
    assert load(waits.callback.policy).delays == (5, 5, 60)
    assert read(document_of(waits)) == waits
    both = {"attempts": 3, "delays": [1], "exponential": {"base": 1, "factor": 2, "cap": 3}}
    assert refused(callback={"policy": both}).field == "callback.policy"


def test_a_change_puts_fields_back_and_changes_inner_ones_one_by_one() -> None:
    """PATCH: null puts a field back to its default."""
    before = read(
        {
            "url": URL,
            "rate": 5,
            "keep": {"input": "1d", "output": "2d"},
            "headers": {"a": "secret::x", "b": "Bearer secret:s"},
        }
    )
    after = read(merged(before, {"rate": None, "keep": {"input": None, "job": "9d"}, "timeout": 5}))
    assert after == replace(before, rate=None, timeout=5, keep=Keep(output=172_800, job=9 * 86_400))
    assert read(merged(before, {"headers": {"c": "d"}})).headers == (("c", "d"),)
    assert read(merged(before, {"headers": None})).headers == ()
    with pytest.raises(RuleError, match="did you mean"):
        read(merged(before, {"timeuot": 1}))
    managed = read({"url": URL, "headers": {"a": "file:x", "b": "env::"}}, managed=True)
    assert read(merged(managed, {}), managed=True) == managed


def test_what_is_kept_is_loaded_whatever_the_limits_are_then() -> None:
    assert load_rules(dump_rules(RULES)) == RULES
    wide = replace(RULES, concurrency=10**9, schema=InputSchema({"$ref": "http://x/y"}))
    assert load_rules(dump_rules(wide)) == wide


def test_every_attribute_is_told_of_in_a_document() -> None:
    """A field that is added to the rules has its place in documents."""
    shown = document_of(RULES, "snake")
    told = {"retry_unknown": "retry_on", "retry_codes": "retry_on", "price_per_second": "price"}
    for one in fields_of(EndpointRules):
        if one.name not in ("headers", "signing_secret"):  # of secrets nothing is shown
            assert told.get(one.name, one.name) in shown


words = st.sampled_from
some = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(map(camel, FIELDS))) | st.text(max_size=8), some))
def test_whatever_is_given_is_read_or_refused(document: dict[str, Any]) -> None:
    """Every limit a clear 4xx: never a fault of ours."""
    try:
        rules = read({"url": URL} | document)
    except RuleError as error:
        assert error.reason  # noqa: PT017
    else:
        assert read(document_of(rules)) == replace(rules, headers=())


codes = st.integers(400, 599)
durations = st.sampled_from(["30s", "15m", "2h", "1d", 1, 90.5, "0.5h"])


@given(
    st.fixed_dictionaries(
        {"url": st.just(URL)},
        optional={
            "concurrency": st.integers(1, 65_536),
            "rate": st.floats(0.001, 10_000),
            "timeout": durations,
            "queueTimeout": durations,
            "repeatWithin": durations,
            "attempts": st.integers(1, 50),
            "retryOn": st.lists(
                st.just("unknown") | st.integers(400, 599), unique=True, max_size=9
            ),
            "busy": st.lists(codes, unique=True, max_size=9),
            "inputMax": st.sampled_from(["1KiB", "64KiB", "1.5MiB", 77]),
            "keep": st.fixed_dictionaries({}, optional={"input": durations, "output": durations}),
            "tenants": st.lists(st.sampled_from(["*", "a", "b.c"]), unique=True, min_size=1),
            "delivery": words(["at-least-once", "at-most-once"]),
            "headers": st.dictionaries(
                words(["a", "b", "c"]), words(["x", "secret:n", "Bearer secret:n", "secret::n"])
            ),
        },
    )
)
def test_documents_rules_and_texts_are_three_forms_of_one(document: dict[str, Any]) -> None:
    rules = read(document)
    assert load_rules(dump_rules(rules)) == rules
    assert read(merged(rules, {})) == rules
    assert read(merged(EndpointRules(url="http://other/"), document)) == rules


# --- durations and sizes ---


@pytest.mark.parametrize(
    ("text", "value"),
    [("30s", 30), ("15m", 900), ("2h", 7_200), ("7d", 604_800), (30, 30), (1.5, 1.5), ("45", 45),
     ("0.5h", 1_800), (0, 0)],
)  # fmt: skip
def test_durations(text: Any, value: float) -> None:
    """Durations are seconds or `30s 15m 2h 7d`."""
    assert duration(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("64KiB", 65_536), ("10MiB", 10_485_760), ("1GiB", 1_073_741_824), (5, 5), ("512", 512),
     ("1.5KiB", 1_536), ("8 MiB", 8_388_608), ("3B", 3)],
)  # fmt: skip
def test_sizes(text: Any, value: int) -> None:
    """Sizes bytes or `KiB MiB GiB`."""
    assert size(text) == value


@pytest.mark.parametrize(
    "given",
    ["", "s", "1w", "1ms", "-1s", "1e3", "1h30m", "٣s", "1 2s", True, None, [], float("nan"),
     float("inf"), -1, 10**400, "9" * 400, "1s\n2"],
)  # fmt: skip
def test_what_is_no_amount_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="seconds"):
        duration(given)
    with pytest.raises(ValueError, match="bytes"):
        size(given)


def amounts() -> Iterator[int]:
    yield from (0, 1, 59, 60, 61, 3_600, 86_399, 86_400, 604_800, 1_024, 1_048_576, 10**9)


@pytest.mark.parametrize("amount", list(amounts()))
def test_amounts_are_written_as_they_are_read(amount: int) -> None:
    assert duration(written_duration(amount)) == amount
    assert size(written_size(amount)) == amount
