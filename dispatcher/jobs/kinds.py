"""What kinds of upstream there are beside any HTTP server: where their calls go, what their answers
say, how they are stopped, and how they say how they are. Pure.

- `runpod`: a worker image's local API server (`--rp_serve_api`). It answers 200 whatever happened:
  its body says it.
- `cog`: it is called so that it answers at once and tells the rest to a URL, since one that is
  called otherwise gives up its work with its connection. A call again for the same job, while that
  runs there, attaches to it.
"""

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from dispatcher.jobs.endpoint import EndpointRules, HealthCheck, Kind, StopCall
from dispatcher.jobs.values import CallOutcome

JSON: Final = "application/json"
_JOB_ID: Final = "{jobId}"
_KEY: Final = "{key}"  # of cog's own routes: another one for each run
_COG_ROUTE: Final = "/predictions"
_COG_STOP: Final = StopCall(path=f"{_COG_ROUTE}/{_KEY}/cancel")
_COG_HEALTH: Final = HealthCheck(path="/health-check")
_COG_WELL: Final = frozenset({"READY", "BUSY"})
_RUNPOD_ROUTE: Final = "/runsync"
# All its places are taken; it is not set up yet.
_COG_BUSY: Final = frozenset({409, 503})
_GIVEN_UP: Final = frozenset({502, 504})
EVENTS: Final = ("start", "output", "logs", "completed")
"""What a cog server tells to the URL of a job's end."""


# --- where calls go ---


def url_of(rules: EndpointRules, key: str) -> str:
    """Return where a call of an endpoint goes; `key` is what its upstream knows the run by."""
    if rules.kind == "cog":
        return f"{_base(rules.url, _COG_ROUTE)}{_COG_ROUTE}/{quote(key, safe='')}"
    if rules.kind == "runpod":
        return f"{_base(rules.url, _RUNPOD_ROUTE)}{_RUNPOD_ROUTE}"
    return rules.url


def urls_of(rules: EndpointRules) -> Mapping[str, str]:
    """Return all URLs that are called for an endpoint, by the fields that say them."""
    found = {"url": rules.url}
    if rules.cancel is not None and rules.cancel.url is not None:
        found["cancel.url"] = rules.cancel.url
    if rules.wake is not None:
        found["wake.url"] = rules.wake.url
    return found


def method_of(rules: EndpointRules) -> str:
    """Return how a call of an endpoint is made."""
    return {"cog": "PUT", "runpod": "POST"}.get(rules.kind, rules.method)


def _base(url: str, route: str) -> str:
    """Return what comes before the routes of a server that was told by its own or by one of
    these."""
    return url.split("?", 1)[0].rstrip("/").removesuffix(route)


def at(url: str, path: str) -> str:
    """Return the URL of another path of the same server."""
    parts = urlsplit(url)
    path, _, query = path.partition("?")
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


# --- what stops, and what tells how it is ---


def stops(rules: EndpointRules) -> bool:
    """Whether a place of an endpoint is to be freed by more than the end of its call."""
    return stop_call(rules) is not None or rules.cool_down > 0


def stop_call(rules: EndpointRules) -> StopCall | None:
    """Return what stops the work for a call that was closed; None where that is all there is."""
    if rules.cancel is None and rules.kind == "cog":
        return _COG_STOP
    return rules.cancel


def stop_url(rules: EndpointRules, call: StopCall, *, job: str, key: str) -> str:
    """Return where it is asked for, of a job as its upstream knows it."""
    if call.url is not None:
        return _filled(call.url, job, key)
    path = _filled(call.path or "/", job, key)
    if call is _COG_STOP:
        return _base(rules.url, _COG_ROUTE) + path
    return at(rules.url, path)


def _filled(text: str, job: str, key: str) -> str:
    return text.replace(_JOB_ID, quote(job, safe="")).replace(_KEY, quote(key, safe=""))


def must_stop(outcome: CallOutcome) -> bool:
    """Whether an upstream may still work for a call: it went out and did not come to its own end,
    or who answered stood in between and gave it up."""
    ended = outcome.kind == "answered" and outcome.status_code not in _GIVEN_UP
    return outcome.sent and not ended


def health_check(rules: EndpointRules) -> HealthCheck | None:
    """Return how an upstream is asked how it is; None where it is not."""
    if rules.health is None and rules.kind == "cog":
        return _COG_HEALTH
    return rules.health


def health_url(rules: EndpointRules, check: HealthCheck) -> str:
    """Return where it is asked."""
    if check is _COG_HEALTH:
        return _base(rules.url, _COG_ROUTE) + check.path
    return at(rules.url, check.path)


def ails(kind: Kind, status_code: int, body: bytes) -> str | None:
    """Return what is wrong with an upstream that answered so when it was asked how it is; None
    where it is well."""
    if not 200 <= status_code < 300:
        return f"it answered {status_code}"
    if kind != "cog":
        return None
    try:
        status = json.loads(body)["status"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "its answer is no health check of cog's"
    return None if status in _COG_WELL else f"it says {str(status)[:40]}"


# --- what answers say ---


def is_busy(rules: EndpointRules, status_code: int) -> bool:
    """Whether an upstream of this kind says by this code that it took nothing."""
    return status_code in rules.busy or (rules.kind == "cog" and status_code in _COG_BUSY)
