"""What a process looks at once a second, on the writer's thread between two commits: what the
others changed, in case nobody could tell us."""

from dataclasses import dataclass
from typing import Final

from dispatcher.states import State
from dispatcher.store.migrate import scripts
from dispatcher.store.postgres import lanes
from dispatcher.store.postgres.session import Session
from dispatcher.store.tx import Tx

COUNTS: Final = "SELECT tenant, state, sum(n)::bigint FROM counts GROUP BY tenant, state"
_OTHERS: Final = """
SELECT (SELECT n FROM revisions WHERE what = 'access'), (SELECT max(version) FROM postback_schema)
"""
SIZE: Final = "SELECT pg_database_size(current_database())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Of all processes together; `revision` counts changes of keys, tenants and secrets."""

    counts: dict[tuple[str, State], int]
    next_ready_ms: int | None
    revision: int
    schema: int


def observe(session: Session) -> Observed:
    """Raise StoreUnavailable."""
    tx = session.begin()
    try:
        counts = read_counts(tx)
        ready = tx.one(lanes.NEXT)
        others = tx.one(_OTHERS)
    finally:
        session.roll_back()
    ready_ms = None if ready is None else ready[0]
    revision, schema = (0, 0) if others is None else others
    return Observed(
        counts=counts,
        next_ready_ms=None if ready_ms is None else tx.here(ready_ms),
        revision=revision or 0,
        schema=schema or 0,
    )


def read_counts(tx: Tx) -> dict[tuple[str, State], int]:
    """How many callbacks of each tenant are in each state."""
    return {(tenant, state): n for tenant, state, n in tx.all(COUNTS)}


def known_schema() -> int:
    """Return the newest schema that this version knows."""
    return scripts("postgres")[-1][0]
