"""What runs at the end of a commit, for all of it at once (lanes, tenants' schedules, counts), has
an operation to blame as well when it fails: that one fails alone (I2, I6, D3)."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dispatcher.store.database import Operation
from dispatcher.store.errors import StoreError
from dispatcher.values import Submitted
from receiver.base.db.sqlite import connect_writer
from tests.dispatcher.postgres import folders
from tests.dispatcher.store.builders import LOOKERS, World, callback
from tests.dispatcher.store.conftest import Build

EVIL = "evil"
# Each table that a commit's end writes for its tenants, and when.
ENDS = {"lanes": "UPDATE", "turns": "UPDATE", "counts": "INSERT"}
_POSTGRES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE {when} ON {table} FOR EACH ROW WHEN (NEW.tenant = 'evil')
    EXECUTE FUNCTION refuse()
"""
_SQLITE = """
CREATE TRIGGER refuse BEFORE {when} ON {table} WHEN NEW.tenant = 'evil'
    BEGIN SELECT RAISE(ABORT, 'refused'); END
"""
Refuse = Callable[[str], None]


@pytest.fixture
def refuse(store_name: str, tmp_path: Path) -> Iterator[Refuse]:
    """Has the database refuse what the end of a commit writes for one tenant into a table."""
    folder = tmp_path / "0"
    made = False

    def begin(table: str) -> None:
        nonlocal made
        made = True
        if store_name == "postgres":
            sql = _POSTGRES.format(table=table, when=ENDS[table])
            folders.watcher(folder).execute(sql.encode())
            return
        connection = connect_writer(folder / "postback.db", busy_ms=5_000)
        connection.execute(_SQLITE.format(table=table, when=ENDS[table]))
        connection.close()

    yield begin
    if made and store_name == "postgres":
        folders.watcher(folder).execute(b"DROP FUNCTION refuse CASCADE")


async def exact(world: World, folder: Path, store_name: str) -> None:
    """The counts are what the rows are."""
    look = LOOKERS[store_name]
    rows = look(folder, "SELECT tenant, state, count(*) FROM callbacks GROUP BY tenant, state")
    counted = look(
        folder, "SELECT tenant, state, CAST(sum(n) AS bigint) FROM counts GROUP BY tenant, state"
    )
    assert sorted(rows) == sorted(row for row in counted if row[2])
    waiting = sum(n for _, state, n in rows if state in ("pending", "sending"))
    assert world.store.queued() == waiting


@pytest.mark.parametrize("table", sorted(ENDS))
async def test_what_fails_at_the_end_of_a_commit_fails_alone(
    build: Build, refuse: Refuse, tmp_path: Path, store_name: str, table: str
) -> None:
    """Its neighbours are stored and settled: nobody's submit is refused, no result is lost."""
    world = await build()
    await world.submit("before", tenant=EVIL, url="http://evil.test/")
    await world.many(8, "old")
    claimed = [one for one in await world.claim() if one.tenant != EVIL]
    assert len(claimed) == 8
    refuse(table)
    answers = await asyncio.gather(
        *(world.settle(one) for one in claimed),
        *(world.submit(f"new-{n}", tenant=f"t{n % 3}") for n in range(30)),
        world.submit("bad", tenant=EVIL, url="http://evil.test/"),
        world.store.replay("acme", "cb_unknown", now_ms=world.now_ms),
        return_exceptions=True,
    )
    assert answers[:8] == [True] * 8
    assert all(isinstance(one, Submitted) for one in answers[8:38])
    bad, unknown = answers[38:]
    assert isinstance(bad, Exception)
    assert not isinstance(bad, StoreError)  # a fault of ours: loud
    assert isinstance(unknown, StoreError)
    await exact(world, tmp_path / "0", store_name)


async def test_lanes_that_cannot_be_told_fail_their_operation_alone(
    build: Build, tmp_path: Path, store_name: str
) -> None:
    world = await build()

    def broken(_tx: object) -> list[str]:
        raise ValueError("broken")

    def act(_tx: object) -> None:
        raise ValueError("broken too")

    operations = [Operation(act, lanes=broken)]
    answers = await asyncio.gather(
        *(world.submit(f"new-{n}") for n in range(10)),
        *(world.store._commits.do(one) for one in operations),
        *(world.store.submit(callback(f"more-{n}"), handover=True) for n in range(10)),
        return_exceptions=True,
    )
    assert isinstance(answers[10], ValueError)
    assert all(isinstance(one, Submitted) for one in (*answers[:10], *answers[11:]))
    await exact(world, tmp_path / "0", store_name)
