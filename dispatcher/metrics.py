"""Counts and durations for Prometheus. No label ever names a tenant, a job or a URL (D14), and
every label has few values, whatever peers send. Endpoints and registered destinations, which people
name, are labels, so many of them at most."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from dispatcher.jobs.endpoint import EndpointLoad
from dispatcher.jobs.estimates import wanted
from dispatcher.jobs.values import CallOutcome, JobVerdict
from dispatcher.outcome import AttemptOutcome, Outcome
from dispatcher.policy import Verdict
from dispatcher.tally import Count, Spread
from receiver.base.budget import Tally

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

# From one fsync and one POST to the longest outage that the default policy outlives.
_LATENCY_S: Final = (
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3_600, 21_600, 86_400
)  # fmt: skip
# Up to the longest usual timeout of an attempt.
_DURATION_S: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    15,
    30,
)
# A call may take a day.
_RUN_S: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3_600, 14_400, 86_400)
ENDPOINTS_MAX: Final = 500
"""So many endpoints have series of their own; the others share those of `other`."""
DESTINATIONS_MAX: Final = 200
"""So many registered destinations do, unless a setting says otherwise; these likewise."""
OTHER: Final = "other"
_OUTPUT_BYTES: Final = tuple(4**n for n in range(5, 16))  # 1 KiB to 1 GiB
Stopped = Literal["stopped", "unknown", "failed"]
"""What came of telling an upstream to stop: it does, it knows of nothing, or nobody heard."""
_COMMIT_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class _Counted(Collector):
    """A counter that is kept elsewhere."""

    def __init__(self, name: str, about: str, fn: Callable[[], float]) -> None:
        self._name, self._about, self._fn = name, about, fn

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._about, value=self._fn())


class _Loads(Collector):
    """What endpoints have to do, as it was read last; those beyond a bound together."""

    def __init__(self, endpoint: Callable[[str], str]) -> None:
        self._endpoint = endpoint
        self._loads: Sequence[EndpointLoad] = ()
        self._now_ms = 0

    def show(self, loads: Sequence[EndpointLoad], now_ms: int) -> None:
        """Show these from now on."""
        self._loads, self._now_ms = loads, now_ms

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return a gauge of each kind."""
        figures: dict[str, Callable[[EndpointLoad], float]] = {
            "queued": lambda one: one.queued,
            "running": lambda one: one.running + one.releasing,
            "capacity": lambda one: one.window,
            "wanted": lambda one: wanted(one.queued, one.running, one.releasing),
            "held": lambda one: one.held_until_ms > self._now_ms,
            "unhealthy": lambda one: one.unhealthy_ms is not None,
        }
        for name, figure in figures.items():
            values: dict[str, float] = defaultdict(float)
            for one in self._loads:
                values[self._endpoint(one.endpoint)] += figure(one)
            yield self._family(name, _LOADS[name], values)
        oldest: dict[str, float] = {}
        for one in self._loads:
            since_ms = one.oldest_queued_ms
            age_s = 0.0 if since_ms is None else max(0, self._now_ms - since_ms) / 1000
            name = self._endpoint(one.endpoint)
            oldest[name] = max(oldest.get(name, 0.0), age_s)
        yield self._family("oldest_queued_seconds", "How long the first job waits.", oldest)

    def _family(self, name: str, about: str, values: dict[str, float]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"dispatcher_endpoint_{name}", about, labels=["endpoint"])
        for endpoint, value in values.items():
            family.add_metric([endpoint], float(value))
        return family


_LOADS: Final = {
    "queued": "Jobs that wait for an endpoint.",
    "running": "Its places that are taken, by all processes.",
    "capacity": "How many calls it may have open now.",
    "wanted": "How many calls there would be with room for all.",
    "held": "Whether nothing is started for now: circuit, or it asked for less.",
    "unhealthy": "Whether its health check fails: nothing is started.",
}


class Metrics:
    """The figures of one process, in a registry of their own."""

    def __init__(self, *, destinations_max: int = DESTINATIONS_MAX) -> None:
        # A time beside each counter, for no monitoring that there is.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.connections = Tally()
        # Labelled children, since looking one up by its labels costs more than counting.
        self._counters: dict[tuple[Counter, *tuple[str, ...]], Counter] = {}
        self._histograms: dict[tuple[Histogram, *tuple[str, ...]], Histogram] = {}
        counter, histogram = self._counter, self._histogram
        self._submitted = counter("submits", "Callbacks submitted, by result.", "result")
        self._refused = counter("refused", "Submits refused, by error code.", "code")
        self._attempts = counter(
            "attempts",
            "Attempts, by outcome, class of status and the state they led to.",
            "outcome",
            "status",
            "state",
        )
        self._to_destinations = counter(
            "destination_attempts",
            "Attempts to registered destinations, likewise.",
            "destination",
            "outcome",
            "status",
            "state",
        )
        self._attempt_s = histogram("attempt_seconds", "How long attempts took.", _DURATION_S)
        self._latency_s = histogram(
            "delivery_latency_seconds", "From accepted to delivered.", _LATENCY_S
        )
        self._commit_s = histogram("commit_seconds", "How long commits took.", _COMMIT_S)
        self._commit_size = histogram("commit_operations", "Operations in a commit.", _BATCH)
        self._stale = counter("stale_settlements", "Late results of old claims, not recorded.")
        self._own_faults = counter(
            "own_faults", "Attempts that we could not make, by what we lacked.", "lack"
        )
        self._repaired = counter("lanes_mended", "Lanes that disagreed with their deliveries.")
        self._reclaimed = counter("reclaimed", "Deliveries taken back from ended leases.")
        self._expired = counter("expired", "Deliveries dead by their maximum age.")
        self._pruned = counter("pruned", "Rows and payloads removed by retention.")
        self._requests = counter("requests", "HTTP requests.", "method", "route", "status")
        self._request_s = histogram(
            "request_seconds", "How long requests took.", _DURATION_S, "method", "route"
        )
        self._waits = counter(
            "job_waits", "Requests that wait for a job, by whether they were held.", "held"
        )
        self._endpoints: set[str] = set()
        self._destinations: set[str] = set()
        self._destinations_max = destinations_max
        self._loads = _Loads(self._endpoint)
        self._registry.register(self._loads)
        self._count_jobs()

    def _count_jobs(self) -> None:
        counter, histogram = self._counter, self._histogram
        self._jobs_submitted = counter(
            "jobs_submitted", "Jobs submitted, by result.", "endpoint", "result"
        )
        self._jobs_refused = counter(
            "jobs_refused", "Submits of jobs refused, by error code.", "endpoint", "code"
        )
        self._job_calls = counter(
            "job_calls",
            "Calls of upstreams, by outcome, class of status and the state they led to.",
            "endpoint",
            "outcome",
            "status",
            "state",
        )
        self._job_call_s = histogram(
            "job_call_seconds", "How long calls of upstreams took.", _RUN_S, "endpoint"
        )
        self._job_wait_s = histogram(
            "job_wait_seconds", "From queued to the first call of a run.", _RUN_S, "endpoint"
        )
        self._job_output_bytes = histogram(
            "job_output_bytes", "How much completed jobs brought.", _OUTPUT_BYTES, "endpoint"
        )
        self._job_stops = counter(
            "job_stops",
            "Upstreams told to stop working for a job, by result.",
            "endpoint",
            "result",
        )
        self._health_checks = counter(
            "health_checks", "Health checks of upstreams, by result.", "endpoint", "result"
        )
        self._wakes = counter(
            "wakes", "Calls of wake hooks of endpoints, by result.", "endpoint", "result"
        )
        self._jobs_expired = counter("jobs_expired", "Jobs whose time was over while they waited.")
        self._jobs_purged = counter("jobs_purged", "Jobs that ended with their queue.")
        self._jobs_pruned = counter("jobs_pruned", "Jobs and their parts removed by retention.")
        self._queues_repaired = counter(
            "job_queues_repaired", "Queues and endpoints that disagreed with their jobs."
        )
        self._jobs_taken_over = counter(
            "jobs_taken_over", "Jobs of other processes that died while they ran them."
        )
        self._job_late = counter(
            "job_late_results", "Results of jobs whose claim was lost or ended, not recorded."
        )

    def submitted(self, result: str) -> None:
        """Count a submit that was answered: `accepted` or `duplicate`."""
        self._count(self._submitted, result)

    def refused(self, code: str) -> None:
        """Count a submit that was refused with this error code (one of D13's)."""
        self._count(self._refused, code)

    def attempted(
        self,
        name: AttemptOutcome,
        outcome: Outcome,
        verdict: Verdict,
        destination: str | None = None,
    ) -> None:
        """Count an attempt that was judged, by its outcome's `name`; with the id of its
        `destination`, where that is registered."""
        status = _status_class(outcome.status_code)
        self._count(self._attempts, name, status, verdict.state)
        if destination is not None and self._destinations_max:
            known = _one_of(self._destinations, destination, self._destinations_max)
            self._count(self._to_destinations, known, name, status, verdict.state)
        self._attempt_s.observe(outcome.duration_ms / 1000)

    def latency(self, seconds: float) -> None:
        """Observe how long after it was accepted a callback was delivered."""
        self._latency_s.observe(seconds)

    def committed(self, operations: int, seconds: float) -> None:
        """Observe one commit: how many operations it stored, and how long it took."""
        self._commit_s.observe(seconds)
        self._commit_size.observe(operations)

    def stale_settlement(self) -> None:
        """Count a result that came after its claim had been taken over."""
        self._stale.inc()

    def own_fault(self, lack: str) -> None:
        """Count an attempt that was not made for `lack` of something of ours, in one of our own
        words; anything above zero deserves a look."""
        self._count(self._own_faults, lack)

    def lane_repaired(self, count: int = 1) -> None:
        """Count lanes that the sweeper repaired; anything above zero deserves a look."""
        self._repaired.inc(count)

    def reclaimed(self, count: int) -> None:
        """Count leases that ended without a result."""
        self._reclaimed.inc(count)

    def expired(self, count: int) -> None:
        """Count deliveries that reached their maximum age."""
        self._expired.inc(count)

    def pruned(self, count: int) -> None:
        """Count what retention removed."""
        self._pruned.inc(count)

    def requested(self, method: str, route: str, status_code: int, seconds: float) -> None:
        """Observe a request that was answered. `route` is its template, never the path; `method`
        is one of those that the route knows."""
        self._count(self._requests, method, route, _status_class(status_code))
        self._observe(seconds, self._request_s, method, route)

    # --- jobs ---

    def job_submitted(self, endpoint: str, result: str) -> None:
        """Count a job that was taken: `accepted` or `duplicate`."""
        self._count(self._jobs_submitted, self._endpoint(endpoint), result)

    def job_refused(self, endpoint: str, code: str) -> None:
        """Count a submit that was refused with this error code (one of D13's)."""
        self._count(self._jobs_refused, self._endpoint(endpoint), code)

    def job_called(self, endpoint: str, outcome: CallOutcome, verdict: JobVerdict) -> None:
        """Count a call that was judged."""
        endpoint = self._endpoint(endpoint)
        status = _status_class(outcome.status_code)
        self._count(self._job_calls, endpoint, outcome.kind, status, verdict.state)
        self._observe(outcome.duration_ms / 1000, self._job_call_s, endpoint)
        if verdict.state == "completed" and outcome.output is not None:
            self._observe(len(outcome.output.body), self._job_output_bytes, endpoint)

    def job_stopped(self, endpoint: str, result: Stopped) -> None:
        """Count an upstream that was told to stop working for a job."""
        self._count(self._job_stops, self._endpoint(endpoint), result)

    def health_checked(self, endpoint: str, *, well: bool) -> None:
        """Count a health check."""
        self._count(self._health_checks, self._endpoint(endpoint), "well" if well else "failed")

    def woken(self, endpoint: str, *, well: bool) -> None:
        """Count a call of a wake hook."""
        self._count(self._wakes, self._endpoint(endpoint), "taken" if well else "failed")

    def show_loads(self, loads: Sequence[EndpointLoad], now_ms: int) -> None:
        """Show what endpoints have to do, until that is read again."""
        self._loads.show(loads, now_ms)

    def job_waited(self, endpoint: str, seconds: float) -> None:
        """Observe how long a run was queued before its first call."""
        self._observe(max(0.0, seconds), self._job_wait_s, self._endpoint(endpoint))

    def jobs_expired(self, count: int) -> None:
        """Count jobs that nobody began in time."""
        self._jobs_expired.inc(count)

    def jobs_purged(self, count: int) -> None:
        """Count jobs that ended with their queue."""
        self._jobs_purged.inc(count)

    def jobs_pruned(self, count: int) -> None:
        """Count what retention removed of jobs."""
        self._jobs_pruned.inc(count)

    def queues_repaired(self, count: int) -> None:
        """Count queues and endpoints that the sweeper repaired; anything above zero deserves a
        look."""
        self._queues_repaired.inc(count)

    def jobs_taken_over(self, count: int) -> None:
        """Count jobs of processes that died."""
        self._jobs_taken_over.inc(count)

    def job_late(self) -> None:
        """Count a result that came after its claim was lost, or its job had ended."""
        self._job_late.inc()

    def job_wait(self, *, held: bool) -> None:
        """Count a request that wants to wait for a job: held, or answered at once for want of
        room."""
        self._count(self._waits, "yes" if held else "no")

    def _endpoint(self, name: str) -> str:
        return _one_of(self._endpoints, name, ENDPOINTS_MAX)

    def bind_gauge(self, name: str, about: str, fn: Callable[[], float]) -> None:
        """Add a gauge that calls `fn` whenever it is read."""
        Gauge(f"dispatcher_{name}", about, registry=self._registry).set_function(fn)

    def bind_counter(self, name: str, about: str, fn: Callable[[], float]) -> None:
        """Add a counter that calls `fn` whenever it is read."""
        self._registry.register(_Counted(f"dispatcher_{name}", about, fn))

    def register(self, collector: Collector) -> None:
        """Add what tells its figures itself."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """Everything, in the text format that `CONTENT_TYPE` names."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Count(f"dispatcher_{name}", about, labels, registry=self._registry)

    def _histogram(
        self, name: str, about: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Spread(f"dispatcher_{name}", about, labels, buckets=buckets, registry=self._registry)

    def _count(self, metric: Counter, *labels: str) -> None:
        child = self._counters.get((metric, *labels))
        if child is None:
            child = self._counters[(metric, *labels)] = metric.labels(*labels)
        child.inc()

    def _observe(self, seconds: float, metric: Histogram, *labels: str) -> None:
        child = self._histograms.get((metric, *labels))
        if child is None:
            child = self._histograms[(metric, *labels)] = metric.labels(*labels)
        child.observe(seconds)


def _one_of(known: set[str], name: str, count_max: int) -> str:
    """Return a name, if it is one of the first so many; `other` for the rest."""
    if name in known:
        return name
    if len(known) >= count_max:
        return OTHER
    known.add(name)
    return name


def _status_class(status_code: int | None) -> str:
    """Return `2xx`, `5xx`, …, or nothing where no answer came. A peer chooses its codes freely:
    their class bounds how many there can be."""
    return "" if status_code is None else f"{min(status_code // 100, 9)}xx"
