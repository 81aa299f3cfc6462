"""The few errors that the store's verbs raise; their messages are fit to show. What may be wrong
with a database itself is told as in the receiver."""

from typing import Final, TypeAlias

from dispatcher.values import Unopened
from receiver.base.db import CannotOpen, DatabaseError, DatabaseFull, DatabaseUnavailable

KEYS_SETTING: Final = "DISPATCHER_ENCRYPTION_KEYS"

StoreError: TypeAlias = DatabaseError
StoreUnavailable: TypeAlias = DatabaseUnavailable
StoreFull: TypeAlias = DatabaseFull
CannotStart: TypeAlias = CannotOpen


class NotFound(StoreError):
    """No such thing in this tenant; another tenant's answers just the same (I9)."""


class Conflict(StoreError):
    """The thing is in a state that does not allow this."""


class NotYet(Conflict):
    """What is in the way passes by itself, in a moment."""


class KeyReused(Conflict):
    """The idempotency key came before, with other content; one that nobody gave (not `explicit`)
    is made of the job, its status and where its callback goes."""

    def __init__(self, first_id: str, *, explicit: bool = True) -> None:
        told = f"the idempotency key was used before, with other content, by {first_id}"
        if not explicit:
            told = (
                f"{first_id} came before with this jobId, status, run and destination, and with "
                "other content; to send both, give each an Idempotency-Key"
            )
        super().__init__(told)
        self.first_id = first_id


class LimitReached(Conflict):
    """`owner` has as many of `what` as it may have: `setting` says how many, `max`."""

    def __init__(self, owner: str, what: str, setting: str, max: int) -> None:
        super().__init__(f"{owner} has {max:,} {what}, as many as {setting} allows")
        self.setting = setting
        self.max = max


class UnknownSecret(NotFound):
    """The tenant has no stored secret of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no stored secret {name}")
        self.name = name


class RedirectsSecret(StoreError):
    """Another URL would be sent a stored secret: who may store secrets decides that."""

    def __init__(self) -> None:
        super().__init__(
            "the destination's headers name a stored secret, which another URL would be sent: "
            "this needs a key with the scope admin"
        )


class TenantErasing(Conflict):
    """The tenant is being erased: it takes nothing new until that is done."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"the tenant {tenant} is being erased: it takes nothing until it is")


class TooManyMatch(StoreError):
    """A filtered replay would be about more than the caller expects."""


class DestinationDisabled(Conflict):
    """The destination takes no callbacks: its reason says why."""


class NoKeyring(Conflict):
    """What may only be stored sealed is refused where there are no keys to seal it with."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is kept sealed only, and the service has no keys: set {KEYS_SETTING}"
        )


class CannotUnseal(StoreError):
    """A stored value cannot be opened: `unopened` says why, as does the message."""

    def __init__(self, unopened: Unopened) -> None:
        super().__init__(unopened.message)
        self.unopened = unopened


class EndpointChanged(NotYet):
    """Somebody else has changed the endpoint since it was looked at."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was changed by somebody else at this moment; try again")


class JobQueueFull(Conflict):
    """As many jobs wait as may: of all customers at `endpoint`, or of this one (`of_tenant`)."""

    def __init__(self, endpoint: str, queued: int, max: int, *, of_tenant: bool) -> None:
        whose = "of yours wait" if of_tenant else "wait"
        super().__init__(f"{queued:,} jobs {whose} for {endpoint}, as many as may")
        self.endpoint = endpoint
        self.queued = queued
        self.max = max
        self.of_tenant = of_tenant


class InputGone(StoreError):
    """The job's input is past its retention; there is nothing left to send."""


class PayloadGone(StoreError):
    """The payload's retention has ended; there is nothing left to send."""
