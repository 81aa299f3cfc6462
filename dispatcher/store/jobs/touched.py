"""What operations on jobs touch: told beforehand, so that all of it can be locked in one order:
the lanes of callbacks, then endpoints."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.store.errors import CannotUnseal
from dispatcher.store.jobs import rows
from dispatcher.store.tx import Row, Tx

OF_JOBS: Final = "SELECT id, endpoint, lane FROM jobs WHERE"
"""What a look for jobs that are to be touched returns."""


@dataclass(frozen=True, slots=True)
class CallbackLane:
    """A lane that the callback of a job goes to, and what it is made of where it is not there."""

    id: str
    tenant: str
    destination: str
    lane: str
    url: str | None
    created_ms: int


class Touched:
    """The endpoints and lanes of an operation: those of the jobs that `find` returns, `endpoints`,
    and those that `find_endpoints` returns. What came up since they were told is left to the next
    operation. One that `tells` nobody of ends touches no lanes."""

    def __init__(
        self,
        find: Callable[[Tx], Sequence[Row]] | None = None,
        endpoints: Iterable[str] = (),
        find_endpoints: Callable[[Tx], Iterable[str]] | None = None,
        *,
        tells: bool = True,
    ) -> None:
        self._tells = tells
        self._find = find
        self._find_endpoints = find_endpoints
        self._always = frozenset(endpoints)
        self.endpoints: frozenset[str] = self._always
        self._job_of: dict[str, str] = {}

    def __call__(self, tx: Tx) -> Iterable[str]:
        """Return the lanes."""
        found = [] if self._find is None else self._find(tx)
        self.endpoints = self._always | {row[1] for row in found}
        if self._find_endpoints is not None:
            self.endpoints |= set(self._find_endpoints(tx))
        if self._tells:
            self._job_of = {row[2]: row[0] for row in found if row[2] is not None}
        return list(self._job_of)

    def may_change(self, tx: Tx, endpoint: str, lane: str | None) -> bool:
        """Whether the transaction may change a job of this endpoint and lane, since it told of
        them: what was told and is not held is not there, or cannot be made."""
        if tx.sole_owner:
            return True
        is_told = not self._tells or lane is None or lane in self._job_of
        return is_told and endpoint in self.endpoints

    def made_of(self, tx: Tx, lanes: Iterable[str]) -> list[CallbackLane]:
        """Return what those of these lanes are made of that this operation touches."""
        ids = [self._job_of[lane] for lane in lanes if lane in self._job_of]
        if not ids:
            return []
        sql = "SELECT id, tenant, options, created_ms FROM jobs WHERE id"
        return [
            made
            for row in tx.all(f"{sql}{tx.job_statements.IN}", tx.ids(ids))
            if (made := _made_of(tx, *row)) is not None
        ]


def _made_of(tx: Tx, id: str, tenant: str, stored: str, created_ms: int) -> CallbackLane | None:
    try:
        target = rows.read_options(tx, stored, id, tenant)[0].callback
    except CannotUnseal:
        return None
    if target is None:
        return None
    return CallbackLane(id, tenant, target.destination, target.lane, target.url, created_ms)


def of_endpoint(name: str) -> Touched:
    """Return one endpoint."""
    return Touched(endpoints=[name])


def of_endpoints(names: Iterable[str]) -> Touched:
    """Return these endpoints."""
    return Touched(endpoints=names)


def of_jobs(ids: Sequence[str]) -> Touched:
    """Return these jobs' endpoints and lanes."""
    return Touched(lambda tx: tx.all(f"{OF_JOBS} id{tx.job_statements.IN}", tx.ids(ids)))
