"""An endpoint: a named upstream and its rules. The defaults are those of the guide's table."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal

from dispatcher.jobs.schema import InputSchema
from dispatcher.values import SecretRef, Unopened

Body = Literal["auto", "raw", "input", "envelope"]
DeliveryMode = Literal["at-least-once", "at-most-once"]
Completion = Literal["response", "url"]
Event = Literal["start", "progress", "output", "end"]
HeldReason = Literal["circuit", "retry-after", "turned-away", "unhealthy"]
Kind = Literal["http", "runpod", "cog"]

OUTPUT_MAX: Final = 100 * 1024 * 1024
"""An endpoint's `output_max` where it says none."""
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class LocalRef:
    """A header's value, or a signing secret, that stands on the server's own disk or in its
    environment, for endpoints of the server's own file alone: `kind` `env` or `file`, and its name
    or path."""

    kind: Literal["env", "file"]
    name: str
    prefix: str = ""


HeaderValue = str | SecretRef | LocalRef


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryWaits:
    """Seconds between calls that spend tries, and between those that were not sent."""

    base: float = 1.0
    factor: float = 2.0
    cap: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """For how many seconds after a job's end its parts are kept."""

    input: float = 7 * _DAY_S
    output: float = 7 * _DAY_S
    job: float = 30 * _DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class StopCall:
    """What has an upstream stop working for a call that we closed: a request to a `path` of its own
    server, or to a `url` elsewhere. `{jobId}` in them is the job's id as its calls carry it."""

    method: str = "POST"
    path: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How an upstream is asked how it is: a `path` of its own server, so often, each time for so
    many seconds at most. After so many `failures` in a row nothing is started until one goes
    well."""

    path: str
    every: float = 10.0
    timeout: float = 5.0
    failures: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Who is told that work waits, and how often while none of it is run."""

    url: str
    every: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackDefaults:
    """What a job's callback is where its request says nothing: `policy` as the store keeps it.
    `events` are what is told; the end is, whatever they are."""

    policy: str | None = None
    destination: str | None = None
    events: tuple[Event, ...] = ("end",)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRules:
    """The fields of an endpoint, read and checked; seconds, bytes and counts. They are read when a
    job is claimed, not frozen in it: a change acts on the backlog."""

    url: str
    kind: Kind = "http"
    method: str = "POST"
    body: Body = "auto"
    concurrency: int = 4  # calls at once, over all processes
    rate: float | None = None  # starts a second, over all processes
    adaptive: bool = True
    timeout: float | None = None  # the run limit where the request says none
    timeout_max: float | None = None
    queue_timeout: float = _DAY_S
    delivery: DeliveryMode = "at-least-once"
    attempts: int = 3
    retry_unknown: bool = True
    retry_codes: frozenset[int] = frozenset({502, 504})
    repeat_within: float = 30.0
    busy: frozenset[int] = frozenset({429})
    completion: Completion = "response"
    progress: bool = True  # calls carry the URLs that progress and completion are told by
    heartbeat_timeout: float | None = None
    functions: tuple[str, ...] = ("run",)
    priority_scope: Literal["customer", "endpoint"] = "customer"
    on_disconnect: Literal["cancel", "keep"] = "cancel"
    schema: InputSchema | None = None
    queue_max: int = 100_000
    queue_max_tenant: int = 1_000
    input_max: int = 10 * 1024 * 1024
    output_max: int = OUTPUT_MAX
    keep: Keep = Keep()
    headers: tuple[tuple[str, HeaderValue], ...] = field(default=(), repr=False)
    signing_secret: LocalRef | None = None  # where the server's file says what signs calls
    retry: RetryWaits = RetryWaits()
    callback: CallbackDefaults = CallbackDefaults()
    cancel: StopCall | None = None  # None: the connection is closed, and that is all
    cool_down: float = 0.0  # rest of a place once a call was stopped
    health: HealthCheck | None = None
    wake: Wake | None = None
    price_per_second: float | None = None
    expected_duration: float | None = None
    expected_output: int | None = None  # bytes
    tenants: tuple[str, ...] = ("*",)

    def admits(self, tenant: str) -> bool:
        """Whether jobs of this tenant are taken; to others the endpoint does not exist."""
        return "*" in self.tenants or tenant in self.tenants

    @property
    def once(self) -> bool:
        """Whether a call is made at most once."""
        return self.delivery == "at-most-once"


UNOPENED: Final = EndpointRules(url="", tenants=())
"""Stands where the rules of an endpoint cannot be opened."""
_NESTED: Final[Mapping[str, Any]] = {
    "keep": Keep,
    "retry": RetryWaits,
    "callback": CallbackDefaults,
    "cancel": StopCall,
    "health": HealthCheck,
    "wake": Wake,
}


def dump_rules(rules: EndpointRules) -> str:
    """Return rules as the text that `load_rules` reads: what is not the default."""
    parts: dict[str, Any] = {}
    for one in fields(rules):
        value = getattr(rules, one.name)
        if value == one.default:
            continue
        if one.name in _NESTED:
            value = asdict(value)
        elif isinstance(value, frozenset):
            value = sorted(value)
        elif one.name == "headers":
            value = [_dump_header(name, content) for name, content in value]
        elif one.name == "signing_secret":
            value = [value.kind, value.name]
        elif one.name == "schema":
            value = value.document
        parts[one.name] = value
    return json.dumps(parts)


def load_rules(text: str) -> EndpointRules:
    """Return the rules that a text of `dump_rules` says. They were read and checked when they were
    written: limits that have changed since refuse none."""
    parts: dict[str, Any] = json.loads(text)
    for name, value in parts.items():
        if name in _NESTED:
            if name == "callback" and "events" in value:
                value["events"] = tuple(value["events"])
            parts[name] = _NESTED[name](**value)
        elif name in ("retry_codes", "busy"):
            parts[name] = frozenset(value)
        elif name in ("functions", "tenants"):
            parts[name] = tuple(value)
        elif name == "headers":
            parts[name] = tuple(_load_header(one) for one in value)
        elif name == "schema":
            parts[name] = InputSchema(value)
        elif name == "signing_secret":
            parts[name] = LocalRef(*value)
    return EndpointRules(**parts)


def _dump_header(name: str, value: HeaderValue) -> list[str]:
    if isinstance(value, SecretRef):
        return [name, value.prefix, "secret", value.name]
    if isinstance(value, LocalRef):
        return [name, value.prefix, value.kind, value.name]
    return [name, value]


def _load_header(parts: list[Any]) -> tuple[str, HeaderValue]:
    if len(parts) == 2:
        return parts[0], parts[1]
    name, prefix, kind, of = parts
    return name, SecretRef(of, prefix) if kind == "secret" else LocalRef(kind, of, prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An endpoint as it is stored. `text` is `rules` as they are kept; a managed one comes from
    the server's file. `epoch` grows with each change of its URL: what was out before teaches
    nothing after. While its rules are `unopened`, they are not there: nothing is run by them, and
    nobody but who administers it may know of it."""

    name: str
    rules: EndpointRules
    text: str = field(repr=False)
    managed: bool = False
    paused: bool = False
    created_ms: int
    updated_ms: int
    epoch: int = 0
    unopened: Unopened | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLoad:
    """What an endpoint has to do and may do now. `window` is how many calls it may have open at
    present, and `oldest_queued_ms` since when the first job waits (of very many customers, of those
    that come next). While `held_until_ms` is to come nothing is started, nor while its health check
    fails (`unhealthy_ms`: since then). `is_wanted`: of what waits some is worth waking it for."""

    endpoint: str
    queued: int
    running: int
    releasing: int
    window: int
    oldest_queued_ms: int | None
    held_until_ms: int
    held_reason: HeldReason | None
    unhealthy_ms: int | None = None
    is_wanted: bool = False
