"""metrics.py: what is counted, and that labels stay few (D14)."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dispatcher.jobs.values import CallOutcome, JobVerdict
from dispatcher.metrics import ENDPOINTS_MAX, OTHER, Metrics
from dispatcher.outcome import AttemptOutcome, Kind, Outcome
from dispatcher.policy import Verdict


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of the rendered text, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"dispatcher_{name}", frozenset(labels.items())))


def outcome(kind: Kind = "answered", status_code: int | None = 200) -> Outcome:
    return Outcome(kind=kind, started_ms=0, duration_ms=20.0, status_code=status_code)


def test_submits_are_counted_by_result_and_refusals_by_code() -> None:
    metrics = Metrics()
    metrics.submitted("accepted")
    metrics.submitted("accepted")
    metrics.submitted("duplicate")
    metrics.refused("QUEUE_FULL")

    assert value(metrics, "submits_total", result="accepted") == 2
    assert value(metrics, "submits_total", result="duplicate") == 1
    assert value(metrics, "refused_total", code="QUEUE_FULL") == 1


@pytest.mark.parametrize(
    ("met", "name", "status"),
    [
        (outcome(), "acknowledged", "2xx"),
        (outcome(status_code=503), "rejected", "5xx"),
        (outcome(status_code=999), "rejected", "9xx"),
        (outcome("timeout", None), "timeout", ""),
        (outcome("unreachable", None), "unreachable", ""),
    ],
)
def test_attempts_are_counted_by_outcome_and_state(
    met: Outcome, name: AttemptOutcome, status: str
) -> None:
    metrics = Metrics()
    metrics.attempted(name, met, Verdict(state="pending", due_ms=1))

    assert value(metrics, "attempts_total", outcome=name, status=status, state="pending") == 1
    assert value(metrics, "attempt_seconds_count") == 1
    assert value(metrics, "attempt_seconds_sum") == 0.02


def test_i7_a_peer_that_varies_its_codes_makes_no_new_series() -> None:
    metrics = Metrics()
    for code in range(200, 1_000):
        metrics.attempted("rejected", outcome(status_code=code), Verdict(state="dead"))
    attempts = [name for name, _ in samples(metrics) if name == "dispatcher_attempts_total"]

    assert len(attempts) == 8


def test_durations_are_histograms_in_seconds() -> None:
    metrics = Metrics()
    metrics.latency(0.003)
    metrics.committed(128, 0.004)

    assert value(metrics, "delivery_latency_seconds_sum") == 0.003
    assert value(metrics, "delivery_latency_seconds_bucket", le="0.002") == 0
    assert value(metrics, "delivery_latency_seconds_bucket", le="0.005") == 1
    assert value(metrics, "commit_seconds_sum") == 0.004
    assert value(metrics, "commit_operations_bucket", le="64.0") == 0
    assert value(metrics, "commit_operations_bucket", le="128.0") == 1


def test_the_keepers_of_the_house_are_counted() -> None:
    metrics = Metrics()
    metrics.stale_settlement()
    metrics.lane_repaired(2)
    metrics.reclaimed(3)
    metrics.expired(4)
    metrics.pruned(5)

    counted = ("stale_settlements", "lanes_mended", "reclaimed", "expired", "pruned")
    assert [value(metrics, f"{name}_total") for name in counted] == [1, 2, 3, 4, 5]


def test_requests_are_counted_by_route_template_and_class_of_status() -> None:
    metrics = Metrics()
    metrics.requested("GET", "/v1/callbacks/{id}", 200, 0.01)
    metrics.requested("GET", "/v1/callbacks/{id}", 404, 0.01)

    labels = {"method": "GET", "route": "/v1/callbacks/{id}"}
    assert value(metrics, "requests_total", status="2xx", **labels) == 1
    assert value(metrics, "requests_total", status="4xx", **labels) == 1
    assert value(metrics, "request_seconds_count", **labels) == 2


def test_gauges_are_asked_when_they_are_read() -> None:
    metrics, queued = Metrics(), [3]
    metrics.bind_gauge("queued", "Deliveries pending or sending.", lambda: queued[0])
    assert value(metrics, "queued") == 3
    queued[0] = 4
    assert value(metrics, "queued") == 4


def test_every_instance_counts_for_itself() -> None:
    first, second = Metrics(), Metrics()
    first.submitted("accepted")

    assert value(second, "submits_total", result="accepted") is None


def test_i9_no_label_names_a_tenant_a_url_or_a_job() -> None:
    metrics = Metrics()
    metrics.submitted("accepted")
    metrics.refused("QUEUE_FULL")
    metrics.attempted("acknowledged", outcome(), Verdict(state="delivered"), "dst_1")
    metrics.requested("POST", "/v1/callbacks", 202, 0.001)
    labels = {name for _, labels in samples(metrics) for name, _ in labels}

    known = {"result", "code", "outcome", "state", "method", "route", "status", "le"}
    assert labels == known | {"destination"}


def test_calls_of_upstreams_are_counted_by_endpoint() -> None:
    metrics = Metrics()
    call = CallOutcome(
        kind="answered", sent=True, started_ms=0, duration_ms=1_500.0, status_code=200
    )
    metrics.job_called("draw", call, JobVerdict(state="completed"))

    labels = {"endpoint": "draw", "outcome": "answered", "status": "2xx", "state": "completed"}
    assert value(metrics, "job_calls_total", **labels) == 1
    assert value(metrics, "job_call_seconds_sum", endpoint="draw") == 1.5


def test_i7_endpoints_without_end_make_no_series_without_end() -> None:
    metrics = Metrics()
    for number in range(ENDPOINTS_MAX + 20):
        metrics.job_submitted(f"e{number}", "accepted")
    metrics.job_submitted("e0", "accepted")
    submitted = [one for one in samples(metrics) if one[0] == "dispatcher_jobs_submitted_total"]

    assert len(submitted) == ENDPOINTS_MAX + 1
    assert value(metrics, "jobs_submitted_total", endpoint="other", result="accepted") == 20
    assert value(metrics, "jobs_submitted_total", endpoint="e0", result="accepted") == 2


def test_attempts_to_registered_destinations_are_counted_by_their_ids() -> None:
    metrics = Metrics()
    metrics.attempted("rejected", outcome(status_code=401), Verdict(state="pending"), "dst_1")
    metrics.attempted("acknowledged", outcome(), Verdict(state="delivered"))

    labels = {"outcome": "rejected", "status": "4xx", "state": "pending"}
    assert value(metrics, "destination_attempts_total", destination="dst_1", **labels) == 1
    assert len([one for one in samples(metrics) if "destination_attempts_total" in one[0]]) == 1


@pytest.mark.parametrize(("most", "series"), [(3, 4), (0, 0)])
def test_i7_destinations_without_end_make_no_series_without_end(most: int, series: int) -> None:
    """The first few have their own, the others share one; none where none is wanted."""
    metrics = Metrics(destinations_max=most)
    for number in range(10):
        metrics.attempted("acknowledged", outcome(), Verdict(state="delivered"), f"dst_{number}")
    found = [one for one in samples(metrics) if one[0] == "dispatcher_destination_attempts_total"]

    assert len(found) == series
    labels = {"outcome": "acknowledged", "status": "2xx", "state": "delivered"}
    shared = value(metrics, "destination_attempts_total", destination=OTHER, **labels)
    assert shared == (7 if most else None)


def test_no_time_stands_beside_each_counter() -> None:
    """`_created` lines are a quarter of a scrape, and nobody reads them."""
    metrics = Metrics()
    metrics.submitted("accepted")
    metrics.requested("GET", "/healthz", 200, 0.001)

    assert "_created" not in metrics.render().decode()
