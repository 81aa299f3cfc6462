"""What the verbs see of the running transaction, whichever database it runs on."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from receiver.guard import Verdict
from receiver.message import Message

Row: TypeAlias = Any  # a mapping of the columns' names, whatever the driver makes of it
Value: TypeAlias = str | bytes | int | None


def storable(value: str) -> str:
    """Return what a peer or a customer's code said, without what not every database takes as text:
    NUL, and halves of characters."""
    if value.isascii() and "\0" not in value:
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


class Tx(Protocol):
    """Portable SQL in, rows out. Parameters are `:name`. Used on the connection's thread."""

    skip_locked: str
    """What ends a SELECT of rows to be changed, where other replicas change rows as well."""
    has_due: bool
    """Whether it made something due at once."""

    def all(self, sql: str, values: Mapping[str, Value]) -> Sequence[Row]:
        """Every row."""

    def run(self, sql: str, values: Mapping[str, Value]) -> int:
        """How many rows were changed."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Undoes everything inside if it raises."""

    def receive(self, messages: Sequence[Message]) -> Sequence[Verdict]:
        """Store what is new; the verdicts."""
