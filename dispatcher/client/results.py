"""What the service answers, typed: the wire's types with aware datetimes in UTC. Fields that the
service may add later are ignored, so that an older client keeps working."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct, field

from dispatcher import wire, wire_jobs
from dispatcher.jobs.states import FINAL

PolicyFields = dict[str, Any]


class Submitted(wire.AcceptedView[datetime], frozen=True, kw_only=True):
    """A callback that the service has on disk. `duplicate`: it had it already, under this id."""


class Callback(wire.CallbackView[datetime], frozen=True, kw_only=True):
    """A callback on its way. The fields from `policy` on are there when it is shown alone."""

    policy: PolicyFields | None = None
    payload_size: int | None = None
    payload_sha256: str | None = None
    payload_pruned: bool | None = None

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.status in ("delivered", "dead", "cancelled")

    @property
    def waits(self) -> str:
        """What it waits for, in words; empty where it waits for nothing."""
        return wait_words(self, _in_seconds)


# What a callback waits for, `{name}` being its destination's, and what comes at its end.
_WAITS: Final = {
    "paused": ("{name} is paused", ""),
    "disabled": ("{name} is disabled", ""),
    "circuit": ("{name} is down, circuit open", "probe"),
    "retry-after": ("{name} asked for a pause", "again"),
    "turned-away": ("{name} turned deliveries away", "again"),
    "not-before": ("not to be sent yet", "first try"),
    "retry": ("", "next try"),
    "rate": ("the rate of {name}", "next"),
    "slot": ("a free slot", ""),
}


def wait_words(callback: Callback, when: Callable[[datetime], str]) -> str:
    """Return what a callback waits for in words, its end as `when` tells it."""
    wait = callback.waits_for
    if wait is None:
        return ""
    what, then = _WAITS.get(wait.reason, (wait.reason, "until"))
    what = what.format(name=callback.destination_name or urlsplit(callback.callback_url).netloc)
    end = "" if wait.until is None else f"{then} {when(wait.until)}"
    return ", ".join(part for part in (what, end) if part)


def _in_seconds(moment: datetime) -> str:
    return f"in {max(0.0, (moment - datetime.now(UTC)).total_seconds()):.0f} s"


class Attempt(wire.AttemptView[datetime], frozen=True, kw_only=True):
    """One POST and what it met."""

    @property
    def acknowledged(self) -> bool:
        """Whether the response was one that its policy takes for received."""
        return self.outcome == "acknowledged"


class Payload(Struct, frozen=True, kw_only=True):
    """Stored bytes, and what they were declared to be."""

    body: bytes
    content_type: str

    def json(self) -> Any:
        """Return what they say as JSON. Raises ValueError where they are none."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"Payload({len(self.body)} bytes of {self.content_type})"


class Failure(wire.FailureView[datetime], frozen=True, kw_only=True):
    """Callbacks of one destination that failed in one way. `cause` and `detail` are there for
    platform keys."""


class Failures(wire.FailuresView[Failure], frozen=True, kw_only=True):
    """What fails, the most first. Not `complete`: of the newest."""


class Preview(wire.PreviewView[Callback], frozen=True, kw_only=True):
    """What a filtered replay would match: how many, and some of them."""


class Replay(wire.ReplayView[datetime], frozen=True, kw_only=True):
    """A filtered replay and how far it is: `replayed` and `skipped` (payload gone) grow up to
    `matched`. `state` is `running`, `done` or `cancelled`."""

    @property
    def final(self) -> bool:
        """Whether it replays nothing more."""
        return self.state != "running"


class Destination(wire.DestinationView[datetime, PolicyFields], frozen=True, kw_only=True):
    """Where deliveries go, with its health (`healthy failing rejecting circuit-open disabled`),
    what waits for it and what holds it (`paused circuit retry-after turned-away rate`)."""


class Registered(Destination, frozen=True, kw_only=True):
    """A destination just registered; `secret` is there where it was made for it."""

    secret: str | None = None

    def __repr__(self) -> str:
        return f"Registered(id={self.id!r}, name={self.name!r}, url={self.url!r}, secret=…)"


class Endpoint(wire_jobs.EndpointView[datetime], frozen=True, kw_only=True):
    """A named upstream. The fields from `url` on are there for platform keys with the scope
    `admin`; `rules` as the API spells them, and of headers the names alone."""

    url: str | None = None
    managed: bool = False
    created_at: datetime | None = None
    updated_at: datetime | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    measured: wire_jobs.MeasuresView | None = None
    header_names: list[str] = field(default_factory=list)


class MadeEndpoint(Endpoint, frozen=True, kw_only=True):
    """An endpoint just made; `secret` is what signs its calls."""

    secret: str

    def __repr__(self) -> str:
        return f"MadeEndpoint(name={self.name!r}, url={self.url!r}, secret=…)"


class RevealedEndpointSecret(
    wire_jobs.ShownEndpointSecretView[datetime], frozen=True, kw_only=True
):
    """A secret that signs an endpoint's calls, with its value. `active`: it still signs."""

    def __repr__(self) -> str:
        return f"RevealedEndpointSecret(id={self.id!r}, secret=…)"


class Applied(wire_jobs.ApplyView, frozen=True, kw_only=True):
    """What a file of endpoints changed, or would change, by name."""


class Load(wire_jobs.LoadView, frozen=True, kw_only=True):
    """What an endpoint has to do. `wanted`: how many calls would run if there were room for all,
    those that run included."""


class Purged(wire_jobs.PurgedView, frozen=True, kw_only=True):
    """How many jobs waited: none of them will start."""


class UpstreamTest(wire_jobs.EndpointTestView[datetime], frozen=True, kw_only=True):
    """One call of an upstream and what it met."""

    @property
    def completed(self) -> bool:
        """Whether a job would be completed by it."""
        code = self.status_code
        return self.outcome == "answered" and code is not None and 200 <= code < 300


class SubmittedJob(wire_jobs.SubmittedJobView[datetime | None], frozen=True, kw_only=True):
    """A job that the service has on disk. `duplicate`: it had it already, under this id. `output`
    is there where that was waited for and came in time: then `status` is `completed`, and nothing
    is told of `duplicate` and `created_at` (None)."""

    output: Payload | None = None


class Job(wire_jobs.JobDetailView[datetime], frozen=True, kw_only=True):
    """A job. The fields from `position` on are there when it is shown alone; `metadata` is what its
    upstream reported last, beside `progress` and `current_step`; `output` is what the upstream
    answered: JSON as the value that it is, or a text, and None where it is neither, or
    long: then `output_ref` says how long, and `job_output` fetches it."""

    metadata: Any = None
    output: Any = None

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.status in FINAL

    @property
    def completed(self) -> bool:
        """Whether it has an output."""
        return self.status == "completed"


class JobEvent(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a job does. `what` it is: `status`, a state that it comes to, with its `position` and
    what it waits for while it does; `progress`; `output`, one chunk of an answer that comes in
    chunks: an `index` of 0 begins anew, since the call is repeated; `end`, with the `job`."""

    what: Literal["status", "progress", "output", "end"] = "status"
    status: str | None = None
    run: int | None = None
    position: int | None = None
    position_exactly: bool | None = None
    waiting_for: str | None = None
    waiting_until: datetime | None = None
    held_reason: str | None = None
    progress: float | None = None
    current_step: str | None = None
    metadata: dict[str, Any] | None = None
    index: int | None = None
    output: Any = None
    job: Job | None = None


class JobAttempt(wire_jobs.JobAttemptView[datetime], frozen=True, kw_only=True):
    """One call of the upstream."""


class SweepPreview(wire.PreviewView[Job], frozen=True, kw_only=True):
    """What a bulk change of jobs would match: how many, and some of them."""


class Sweep(wire_jobs.SweepView[datetime], frozen=True, kw_only=True):
    """A purge, a bulk cancel or a bulk retry, and how far it is: `done` and `skipped` (they had
    gone on by themselves) grow up to `matched`."""

    @property
    def final(self) -> bool:
        """Whether it changes nothing more."""
        return self.state != "running"


class Usage(wire_jobs.UsageView, frozen=True, kw_only=True):
    """What a tenant used of one endpoint on one day (UTC)."""


class Key(wire.KeyView[datetime], frozen=True, kw_only=True):
    """An API key without the key itself. `tenant` None: a platform key, good for any tenant."""


class NewKey(Key, frozen=True, kw_only=True):
    """A key just made: `key` is shown this once."""

    key: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, scopes={self.scopes!r}, key=…)"


class Secret(wire.SecretView[datetime], frozen=True, kw_only=True):
    """A signing secret without its value. `active`: it still signs; `destination` None: it is
    the tenant's; `revealed_at` None: nobody has asked to see it."""


class RevealedSecret(Secret, frozen=True, kw_only=True):
    """A signing secret with its value."""

    secret: str

    def __repr__(self) -> str:
        return f"RevealedSecret(id={self.id!r}, secret=…)"


class AuditEntry(wire.AuditView[datetime], frozen=True, kw_only=True):
    """One entry of the audit trail. `tenant` None: the platform itself."""


class Reencryption(wire.ReencryptionView[datetime], frozen=True, kw_only=True):
    """How far everything is sealed with the newest key (`key`): rows that were looked at, values
    that were `sealed`, and those that no key opens. `state` is `none`, `running` or `done`."""

    @property
    def final(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state != "running"


class StoredSecret(wire.StoredSecretView[datetime], frozen=True, kw_only=True):
    """A secret that is stored for headers, without the secret: which destinations name it."""


class Tenant(wire.TenantView[datetime], frozen=True, kw_only=True):
    """One customer account."""


class TenantDetail(wire.TenantDetailView[datetime], frozen=True, kw_only=True):
    """A tenant with the limits in force, of which `defaults` are not its own, and what it uses of
    them."""


class ServiceInfo(wire.ServiceView, frozen=True, kw_only=True):
    """How the service was started; of settings that hold secrets the names alone."""


class Stats(wire.StatsView[datetime], frozen=True, kw_only=True):
    """A tenant's figures; rates are over the last minute."""
