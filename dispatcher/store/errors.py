"""The few errors that the store's verbs raise; their messages are fit to show."""


class StoreError(Exception):
    """Something the caller must be told about; the message is fit to show."""


class StoreUnavailable(StoreError):
    """The database did not take or give the data; nothing was changed. Worth trying again."""


class StoreFull(StoreError):
    """The disk, or the storage limit, has no room for this; nothing was changed."""


class CannotStart(StoreError):
    """The database cannot be used as it is: the message says what to do."""


class NotFound(StoreError):
    """No such thing in this tenant; another tenant's answers just the same (I9)."""


class Conflict(StoreError):
    """The thing is in a state that does not allow this."""


class KeyReused(Conflict):
    """The idempotency key came before, with other content."""

    def __init__(self, first_id: str) -> None:
        super().__init__(f"the idempotency key was used before, with other content, by {first_id}")
        self.first_id = first_id


class DestinationDisabled(Conflict):
    """The destination takes no callbacks: its reason says why."""


class PayloadGone(StoreError):
    """The payload's retention has ended; there is nothing left to send."""
