"""What the service answers, typed: the wire's types with aware datetimes in UTC. Fields that the
service may add later are ignored, so that an older client keeps working."""

from datetime import datetime
from typing import Any

from msgspec import field

from dispatcher import wire, wire_jobs

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


class Attempt(wire.AttemptView[datetime], frozen=True, kw_only=True):
    """One POST and what it met."""

    @property
    def acknowledged(self) -> bool:
        """Whether the response was one that its policy takes for received."""
        return self.outcome == "acknowledged"


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
    """Where deliveries go, with its health (`healthy failing circuit-open disabled`), what waits
    for it and what holds it (`paused circuit retry-after
    turned-away rate`)."""


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
    header_names: list[str] = field(default_factory=list)


class Applied(wire_jobs.ApplyView, frozen=True, kw_only=True):
    """What a file of endpoints changed, or would change, by name."""


class Purged(wire_jobs.PurgedView, frozen=True, kw_only=True):
    """How many jobs waited: none of them will start."""


class UpstreamTest(wire_jobs.EndpointTestView[datetime], frozen=True, kw_only=True):
    """One call of an upstream and what it met."""

    @property
    def completed(self) -> bool:
        """Whether a job would be completed by it."""
        code = self.status_code
        return self.outcome == "answered" and code is not None and 200 <= code < 300


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


class Stats(wire.StatsView[datetime], frozen=True, kw_only=True):
    """A tenant's figures; rates are over the last minute."""
