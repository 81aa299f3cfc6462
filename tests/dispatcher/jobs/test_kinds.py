"""Kinds of upstreams: where their calls go, what their answers say, and how they are stopped."""

import json
from typing import Any

import pytest

from dispatcher.jobs import kinds
from dispatcher.jobs.endpoint import HealthCheck, StopCall
from dispatcher.jobs.judge import judge
from dispatcher.jobs.values import CallOutcome
from tests.dispatcher.jobs.made import NOW_MS, job, outcome, rules

pytestmark = pytest.mark.quick

RUNPOD = "http://10.0.0.1:8000"
COG = "http://10.0.0.1:5000/models"


def of_kind(kind: str, url: str = RUNPOD, **more: Any) -> Any:
    made = rules(kind=kind, **more)
    object.__setattr__(made, "url", url)
    return made


def met(body: Any, code: int = 200) -> CallOutcome:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return outcome(code=code, body=raw)


def test_calls_go_to_the_one_route_of_their_kind() -> None:
    """However the server was told: by its root, or by the route itself."""
    for url in (RUNPOD, f"{RUNPOD}/", f"{RUNPOD}/runsync"):
        assert kinds.url_of(of_kind("runpod", url), "job_1") == f"{RUNPOD}/runsync"
    for url in (COG, f"{COG}/", f"{COG}/predictions"):
        assert kinds.url_of(of_kind("cog", url), "job_1-2") == f"{COG}/predictions/job_1-2"
    assert kinds.method_of(of_kind("cog")) == "PUT"
    assert kinds.url_of(of_kind("http", COG), "job_1") == COG


def test_what_stops_a_call_is_asked_for_at_its_place() -> None:
    """A path of the upstream's own server, a URL elsewhere, or cog's own route; ids are quoted."""
    own = StopCall(path="/jobs/{jobId}/cancel?now=1")
    made = of_kind("http", "http://10.0.0.1:9000/generate/x?y=1", cancel=own)
    assert kinds.stop_url(made, own, job="job_1", key="job_1-2") == (
        "http://10.0.0.1:9000/jobs/job_1/cancel?now=1"
    )
    other = StopCall(url="http://10.0.0.2/kill?id={jobId}")
    assert kinds.stop_url(made, other, job="a/b", key="k") == "http://10.0.0.2/kill?id=a%2Fb"
    cog = of_kind("cog", COG)
    call = kinds.stop_call(cog)
    assert call is not None
    assert kinds.stop_url(cog, call, job="job_1", key="job_1-2") == (
        f"{COG}/predictions/job_1-2/cancel"
    )
    assert kinds.stop_call(of_kind("runpod")) is None


def test_only_what_stops_keeps_a_place() -> None:
    assert not kinds.stops(of_kind("http"))
    assert kinds.stops(of_kind("http", cool_down=1.0))
    assert kinds.stops(of_kind("cog"))
    assert kinds.stops(of_kind("http", cancel=StopCall(path="/stop")))


@pytest.mark.parametrize(
    ("kind", "sent", "stop"),
    [
        ("answered", True, False),
        ("not_sent", False, False),
        ("timeout", False, False),
        ("timeout", True, True),
        ("cancelled", True, True),
        ("unknown", True, True),
        ("broken_off", True, True),
        ("too_large", True, True),
        ("silent", True, True),
        ("interrupted", True, True),
    ],
)
def test_what_went_out_and_came_to_no_end_of_its_own_is_stopped(
    kind: Any, sent: bool, stop: bool
) -> None:
    assert kinds.must_stop(outcome(kind, sent=sent)) is stop


# --- cog ---


@pytest.mark.parametrize("code", [409, 503])
def test_a_cog_server_without_room_takes_nothing(code: int) -> None:
    """All its places are taken, or it is not set up yet: turned away, also at most once."""
    for delivery in ("at-least-once", "at-most-once"):
        made = of_kind("cog", COG, delivery=delivery)
        verdict = judge(met({}, code), job(), made, now_ms=NOW_MS, random=0.5)
        assert (verdict.state, verdict.turned_away, verdict.spent) == ("queued", True, False)


def test_a_cog_server_that_took_a_call_ends_it_by_url() -> None:
    made = of_kind("cog", COG)
    verdict = judge(met({"status": "starting"}, 202), job(), made, now_ms=NOW_MS, random=0.5)
    assert verdict.state == "running"
    assert verdict.limit_ms is not None


@pytest.mark.parametrize(
    ("status", "well"), [("READY", True), ("BUSY", True), ("STARTING", False), ("DEFUNCT", False)]
)
def test_a_cog_server_says_how_it_is(status: str, well: bool) -> None:
    """READY and BUSY are well; its health is asked for unless another check is written."""
    body = json.dumps({"status": status}).encode()
    assert (kinds.ails("cog", 200, body) is None) is well
    cog = of_kind("cog", COG)
    check = kinds.health_check(cog)
    assert check is not None
    assert kinds.health_url(cog, check) == f"{COG}/health-check"
    own = of_kind("cog", COG, health=HealthCheck(path="/up"))
    assert kinds.health_check(own) == HealthCheck(path="/up")


def test_another_upstream_is_well_while_it_answers_2xx() -> None:
    assert kinds.ails("http", 204, b"") is None
    assert kinds.ails("http", 500, b"") == "it answered 500"
    assert kinds.ails("cog", 200, b"hello") is not None
    made = of_kind("http", "http://10.0.0.1:9000/a/b?c", health=HealthCheck(path="/up?x=1"))
    assert made.health is not None
    assert kinds.health_url(made, made.health) == "http://10.0.0.1:9000/up?x=1"
