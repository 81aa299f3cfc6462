"""The audit trail: what it records, by name, and one entry of it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from dispatcher.ids import new_id

# Every action there is. Whoever adds one adds its route, or who else does it, to
# `tests/dispatcher/api/test_audit.py`.
ACTIONS: Final[Mapping[str, str]] = {
    "key.create": "an API key was made",
    "key.rotate": "an API key was replaced by a new one",
    "key.revoke": "an API key was revoked",
    "key.bootstrap": "`DISPATCHER_ADMIN_KEY` was used, for the first time in this process",
    "signing-secret.rotate": "a signing secret was replaced by a new one",
    "signing-secret.reveal": "a signing secret was shown",
    "secret.store": "a stored secret was written",
    "secret.remove": "a stored secret was removed",
    "secret.reencrypt": "what is sealed was sealed anew",
    "destination.register": "a destination was registered",
    "destination.change": "a destination was changed: which of its fields",
    "destination.pause": "a destination was paused",
    "destination.resume": "a destination was resumed",
    "destination.disable": "a destination was disabled",
    "destination.enable": "a destination was enabled",
    "destination.remove": "a destination was removed",
    "destination.test": "a test callback was sent",
    "callback.replay": "one callback was replayed",
    "callback.cancel": "one callback was cancelled",
    "replay.start": "a filtered replay was made",
    "replay.cancel": "a filtered replay was cancelled",
    "endpoint.create": "an endpoint was made",
    "endpoint.change": "an endpoint was changed: which of its fields",
    "endpoint.remove": "an endpoint was removed",
    "endpoint.pause": "an endpoint was paused",
    "endpoint.resume": "an endpoint was resumed",
    "endpoint.purge": "what waited for an endpoint was cancelled, of one tenant or of all",
    "endpoint.test": "an upstream was called for a test",
    "endpoint-secret.rotate": "the signing secret of an endpoint was replaced by a new one",
    "endpoint-secret.reveal": "the signing secret of an endpoint was shown",
    "job.cancel": "one job was cancelled",
    "job.retry": "one job was run again",
    "jobs.cancel": "all jobs that a filter matches were to be cancelled",
    "jobs.retry": "all jobs that a filter matches were to be run again",
    "sweep.cancel": "a bulk cancel or a bulk retry of jobs was stopped",
    "tenant.create": "a tenant came into being, with its first use",
    "tenant.change": "a tenant's limits were changed",
    "tenant.erase": "a tenant's erasure began",
    "service.start": "a process started: its version, and the settings that are not the defaults",
}
SERVICE: Final = "service"
"""The actor of what nobody asked for."""
REASON_CHARS_MAX: Final = 500
DETAIL_CHARS_MAX: Final = 4_096
_VALUE_CHARS_MAX: Final = 300
UNFIT_REASON: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Who did what to what: `actor` is an API key's id, or SERVICE, and `by_platform` says whether
    that is the platform's; `tenant` None is the platform itself; `target` is an id or a name.
    `detail` holds names and numbers, and never a secret or a header's value."""

    id: str
    at_ms: int
    actor: str
    session: str | None = None
    address: str | None = None
    by_platform: bool = True
    tenant: str | None
    action: str
    target: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    def about(self, target: str | None = None, **detail: Any) -> "Entry":
        """Return the same entry of this target, with more detail."""
        return replace(self, target=target or self.target, detail={**self.detail, **detail})

    def detail_text(self) -> str:
        """Return the detail as it is stored: JSON of bounded length."""
        given = {name: value for name, value in self.detail.items() if value is not None}
        text = json.dumps(given, default=str)
        if len(text) > DETAIL_CHARS_MAX:
            text = json.dumps({name: _cut(value) for name, value in given.items()}, default=str)
        return text if len(text) <= DETAIL_CHARS_MAX else json.dumps({"omitted": len(text)})


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """Which entries: all that is set must match. `tenant` None: everybody's, and the platform's;
    `since_ms` is inclusive, `until_ms` exclusive."""

    tenant: str | None
    action: str | None = None
    actor: str | None = None
    target: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


MakeEntry: TypeAlias = Callable[..., Entry]
"""Makes an entry of an action by whoever asks: takes what `Call.entry` takes."""


def new_entry(action: str, *, at_ms: int, **fields: Any) -> Entry:
    """Return an entry with an id, which sorts by its time. Raises KeyError for an action that there
    is not."""
    if action not in ACTIONS:
        raise KeyError(action)
    return Entry(id=new_id("au", at_ms), at_ms=at_ms, action=action, **fields)


def by_service(clock: Callable[[], int]) -> MakeEntry:
    """Return what makes entries of what the service does of itself."""

    def make(
        action: str, target: str | None = None, *, tenant: str | None = None, **detail: Any
    ) -> Entry:
        return new_entry(
            action, at_ms=clock(), actor=SERVICE, tenant=tenant, target=target, detail=detail
        )

    return make


def reason_fault(text: str) -> str | None:
    """Why this text is no reason, or None where it is one."""
    if len(text) > REASON_CHARS_MAX:
        return f"must have at most {REASON_CHARS_MAX} characters"
    if UNFIT_REASON.search(text):
        return "must be text in UTF-8, without control characters"
    return None


def _cut(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 1] + "…"
