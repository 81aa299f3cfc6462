"""What the store's verbs are given, and what some of them give back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dispatcher.jobs.values import JobSettlement, NewJob
from dispatcher.outcome import Outcome
from dispatcher.policy import Verdict
from dispatcher.store.limits import Destinations
from dispatcher.values import Callback, Delivery, NewCallback
from receiver.base.value import frozen


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """A submit on its way to the commit. With `handover` it may be leased in it."""

    new: NewCallback
    handover: bool


@frozen
class Settlement:
    """The end of one attempt. Fenced: recorded only while `delivery.fence` is the current one."""

    delivery: Delivery
    outcome: Outcome
    verdict: Verdict
    random: float  # spreads the circuit's probes
    now_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """How much work a process can take on now.

    `slots` of all its `slots_max` may be filled, and `bytes_free` of payload of `bytes_max` may be
    taken into memory. They are the `part` of what is free that is for claims; the same part is
    left of what stays for newcomers. `busy` and `busy_bytes` are its own work in flight per
    tenant, `busy_high` that of high priority, which never takes more than four slots in five.
    """

    slots: int
    slots_max: int
    bytes_free: int
    bytes_max: int
    part: float = 1.0
    busy_high: int = 0
    busy: Mapping[str, int] = field(default_factory=dict)
    busy_bytes: Mapping[str, int] = field(default_factory=dict)
    now_ms: int


@dataclass(frozen=True, slots=True)
class JobSubmitRequest:
    """A job on its way to the commit. With `process`, which has a place for it, it may be claimed
    in it, unless `running_max` jobs of its tenant run (None: any number may)."""

    new: NewJob
    process: str | None
    running_max: int | None = None


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The end of a call on its way to the commit, with the callback that tells it, if it is to be
    told: made before, so that the lane of that can be locked with all others. With `handover` it
    may be leased in the same commit. `isolated`: storing the callback has failed once; whatever it
    raises, the end is recorded."""

    settlement: JobSettlement
    callback: NewCallback | None
    handover: bool = False
    isolated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Callbacks, newest first, and the id to go on after (None at the end)."""

    callbacks: Sequence[Callback]
    next_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the store takes up: bytes in use, and how many more it may take."""

    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Retention, as ages in milliseconds since a callback reached its final state, and of entries
    of the audit trail."""

    delivered_payload_ms: int
    delivered_ms: int
    dead_ms: int
    audit_ms: int = 2**62  # for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A destination's default concurrency, how far a lease outlasts its attempt, how long an
    idempotency key holds, until when keys of the earlier rule do, how many destinations a tenant
    may have; how many bytes of a job's output its callback carries itself, and below which URL the
    rest is told."""

    destinations: Destinations
    concurrency: int
    lease_margin_ms: int
    key_ms: int
    earlier_keys_until_ms: int = 0
    inline_max: int = 256 * 1024
    public_url: str = ""
