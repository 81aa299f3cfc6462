"""Moving a SQLite file to PostgreSQL: nothing lost, everything as it was, and it can be resumed."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.access import new_secret
from dispatcher.audit import Entry, new_entry
from dispatcher.cli import main
from dispatcher.cli.doctor import database as doctors
from dispatcher.fairness import RATE_MIN
from dispatcher.filters import Filter
from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.filters import JobFilter
from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.errors import CannotStart, Conflict, StoreUnavailable
from dispatcher.store.postgres import move as mover
from dispatcher.store.postgres.move import TABLES, Moved, Progress
from dispatcher.store.rows import ROW_BYTES
from dispatcher.store.sqlite.key_file import key_file_of
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.fleet import SCALE
from tests.dispatcher.store.builders import T0, TENANT, World, raises, secret
from tests.dispatcher.store.jobs.builders import EP, Jobs
from tests.dispatcher.store.jobs.builders import outcome as job_outcome
from tests.theft import KEY

STATES = ("pending", "sending", "delivered", "dead", "cancelled")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    yield folders.url_for(tmp_path)
    folders.drop_under(tmp_path)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands have the keys that the files are sealed with."""
    monkeypatch.setenv("DISPATCHER_ENCRYPTION_KEYS", KEY)


def settings_of(url: str, **changes: Any) -> Settings:
    return Settings(database_url=url, encryption_keys=KEY, **changes)


def move(path: Path, url: str, progress: Progress) -> Moved:
    return mover.move(path, url, progress, kids={"k1"})


def quiet(_table: str, _there: int, _total: int) -> None: ...


async def filled(path: Path, count: int) -> World:
    """A closed world on a file with `count` callbacks, a fifth of them in each state."""

    def make() -> Any:
        return open_store(settings_of(f"sqlite:///{path}", destination_concurrency=8))

    world = World(make=make, store=make())
    await world.open()
    await world.store.ensure_tenant(TENANT, secret())
    await world.register("named", headers=(("X-A", "1"),), rate_per_second=5.0)
    for start in range(0, count, 1_000):
        part = min(count - start, 1_000)
        await asyncio.gather(*(_one(world, start + n) for n in range(part)))
        world.tick()
    made = await world.store.make_replay(
        TENANT, Filter(status="dead"), rate_per_second=1.0, now_ms=world.now_ms
    )
    await world.store.feed_replay(made.id, limit=count // 50 or 1, now_ms=world.tick())
    await world.store.record(*(_entry(n) for n in range(count)))
    await _jobs(world, max(8, count // 50))
    await world.store.close()
    return world


async def _jobs(world: World, count: int) -> None:
    """Some of them in each state, one whose retention is under way, and a bulk change that runs."""
    jobs = Jobs(world)
    await jobs.endpoint(concurrency=5, keep=Keep(input=1), price_per_second=0.5)
    await jobs.store.ensure_endpoint_secret(new_secret("", T0, endpoint=EP))
    for n in range(count):
        await jobs.submit(
            b"\x00" + str(n).encode(),
            tags=(("n", str(n)), ("é", "\n")),
            key=f"job-key-{n}",
            secret=f"fake-secret-{n}",
        )
    done, failed, cancelled, *_ = await jobs.claim(4)
    await jobs.settle(done)
    await jobs.settle(failed, job_outcome(500, body=b"\xff"))
    await jobs.cancel(cancelled.id)
    world.tick(2_000)
    await jobs.store.prune(now_ms=world.now_ms, limit=1)
    await jobs.store.make_sweep(TENANT, "retry", JobFilter(), now_ms=world.now_ms)
    await jobs.store.purge(EP, tenant="nobody", now_ms=world.now_ms)


def _entry(number: int) -> Entry:
    return new_entry(
        "callback.cancel",
        at_ms=T0 + number,
        actor="key_1",
        tenant=TENANT if number % 3 else None,
        target=f"cb_{number}",
        detail={"name": "é"},
        reason="why" if number % 2 else None,
    )


async def _one(world: World, number: int) -> None:
    state = STATES[number % 5]
    url = f"http://{state}-{number // 5 // 8}.test/"
    submitted = await world.submit(
        f"job-{number}",
        url=url,
        handover=state in ("sending", "delivered", "dead"),
        body=b"\x00\xff" + str(number).encode(),
        tags={"n": str(number % 7), "": "é\n"} if number % 3 == 0 else None,
        key=f"key-{number}" if number % 4 == 0 else None,
    )
    if state == "cancelled":
        await world.store.cancel(TENANT, submitted.id, now_ms=world.now_ms)
    elif submitted.delivery is not None and state != "sending":
        await world.settle(submitted.delivery, "delivered" if state == "delivered" else "dead")


def rows(path: Path, url: str, table: str) -> tuple[list[Any], list[Any]]:
    """All rows of a table in both databases, in the order of their keys."""
    order = ", ".join(TABLES[table])
    with sqlite3.connect(path) as old, psycopg.connect(url) as new:
        columns = [row[1] for row in old.execute(f"PRAGMA table_info({table})")]
        names = ", ".join(f'"{name}"' for name in columns)
        sql = f"SELECT {names} FROM {table} ORDER BY {order}"
        return old.execute(sql).fetchall(), new.execute(sql.encode()).fetchall()


async def test_a_file_with_a_rate_near_nothing_is_moved(tmp_path: Path, url: str) -> None:
    """As an earlier version stored one: its lane was ready at no whole number. In its new place
    what waits goes out, at the lowest rate there is."""
    path = tmp_path / "old.db"
    world = await filled(path, 5)
    with sqlite3.connect(path) as old:
        for table in ("destinations", "lanes"):
            old.execute(f"UPDATE {table} SET rate = 1e-17")
        for table in ("lanes", "turns"):
            old.execute(f"UPDATE {table} SET ready_normal = 9.3e18 WHERE ready_normal > 0")
    moved = await asyncio.to_thread(move, path, url, quiet)
    assert moved.differing == []
    world.store = open_store(settings_of(url))
    await world.open()
    try:
        claimed = await world.claim(now_ms=world.tick(1_000))
        assert [one.job_id for one in claimed] == ["job-0", "job-3"]
        shown = await world.destination("named")
        assert shown.rate_per_second == RATE_MIN
        await world.settle(claimed[0])
    finally:
        await world.store.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_moved_file_loses_nothing_and_goes_on(tmp_path: Path, url: str) -> None:
    """Ids, bytes, states, attempts, schedules, keys; interrupted in each table and resumed, at
    once each time: whatever interrupts it, its lock is given back."""
    count = round(5_000 * SCALE)
    path = tmp_path / "old.db"
    await filled(path, count)
    interrupted = set()

    def interrupt(table: str, there: int, total: int) -> None:
        if table not in interrupted and there:
            interrupted.add(table)
            raise InterruptedError(table)

    began = time.monotonic()
    while True:
        try:
            moved = await asyncio.to_thread(move, path, url, interrupt)
            break
        except InterruptedError:
            continue
    seconds = time.monotonic() - began
    assert moved.differing == []
    states = {}
    for table in TABLES:
        old, new = rows(path, url, table)
        assert new == old, table
        states[table] = len(new)
    assert interrupted == {table for table in TABLES if states[table]}
    print(f"\nmoved {states} in {seconds:.1f} s, interrupted {len(interrupted)} times")
    store = open_store(settings_of(url))
    await store.open()
    try:
        stats = await store.stats(None)
        assert sum(stats.counts.values()) == count
        assert all(stats.counts[state] for state in ("pending", "delivered", "dead", "cancelled"))
        assert (await store.submit(*_again(), handover=False)).duplicate  # keys hold
        with sqlite3.connect(path) as old_file:
            (kept,) = old_file.execute("SELECT sum(bytes) FROM counts").fetchone()
        assert store.stored_bytes(TENANT) == kept > count * ROW_BYTES
    finally:
        await store.close()


async def test_jobs_go_on_where_they_were(tmp_path: Path, url: str) -> None:
    """What ran is taken over, what waits is started in its order, keys hold, and a bulk change goes
    on; counts are those of the rows."""
    path = tmp_path / "old.db"
    await filled(path, 5)
    moved = await asyncio.to_thread(move, path, url, quiet)
    assert moved.differing == []
    with sqlite3.connect(path) as old:
        before = dict(old.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
        waiting = [
            row[0] for row in old.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY 1")
        ]
    store = open_store(settings_of(url))
    world = World(make=lambda: store, store=store, now_ms=T0 + 10_000)
    await world.open()
    try:
        jobs = Jobs(world)
        counts = await store.jobs.counts(TENANT)
        assert {state: n for state, n in counts.items() if n} == before
        assert (await jobs.submit(b"\x000", key="job-key-0")).duplicate
        assert await store.jobs.reclaim_orphans(beside="me", now_ms=world.now_ms) == 2
        (sweep,) = await store.jobs.running_sweeps()
        stepped, _ = await store.jobs.step_sweep(TENANT, sweep.id, now_ms=world.now_ms)
        assert (stepped.matched, stepped.done) == (2, 2)
        await jobs.change(concurrency=99)
        process = "process-2"
        await store.jobs.beat(process, begins=True, now_ms=world.now_ms)
        claimed = {one.id: one for one in await jobs.claim(process=process)}
        assert [one for one in claimed if one in waiting] == waiting
        assert all(one.secret == f"fake-secret-{int(one.body[1:])}" for one in claimed.values())
        assert await store.jobs.repair(after="", limit=99) == (0, None)
    finally:
        await store.close()


def _again() -> tuple[Any]:
    from tests.dispatcher.store.builders import callback

    return (callback("job-0", url="http://pending-0.test/", body=b"\x00\xff0", key="key-0"),)


async def test_a_half_moved_database_starts_nothing(tmp_path: Path, url: str) -> None:
    path = tmp_path / "old.db"
    await filled(path, 20)

    def interrupt(table: str, there: int, total: int) -> None:
        if table == "payloads":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await asyncio.to_thread(move, path, url, interrupt)
    error = await raises(CannotStart, open_store(settings_of(url)).open())
    assert "dispatcher move" in str(error)
    moved = await asyncio.to_thread(move, path, url, quiet)
    assert moved.rows["payloads"] == 20
    store = open_store(settings_of(url))
    await store.open()
    await store.close()
    with pytest.raises(Conflict, match="already"):
        await asyncio.to_thread(move, path, url, quiet)


async def test_a_database_with_anything_in_it_is_not_moved_into(tmp_path: Path, url: str) -> None:
    path = tmp_path / "old.db"
    await filled(path, 5)
    store = open_store(settings_of(url))
    await store.open()
    await store.ensure_tenant("other", secret("other"))
    await store.close()
    with pytest.raises(Conflict, match="not empty"):
        await asyncio.to_thread(move, path, url, quiet)


async def test_a_file_that_a_service_uses_is_not_moved(tmp_path: Path, url: str) -> None:
    path = tmp_path / "old.db"
    store = open_store(settings_of(f"sqlite:///{path}"))
    await store.open()
    try:
        with pytest.raises(CannotStart, match="in use"):
            await asyncio.to_thread(move, path, url, quiet)
    finally:
        await store.close()


async def test_a_moved_file_starts_nothing_and_says_where_its_data_is(
    tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its backlog would be delivered a second time. A copy of it can be made, and who drops its
    mark may go back."""
    path = tmp_path / "old.db"
    await filled(path, 5)
    secretly = url.replace("postback_test@", "postback_test:test-password@")
    assert await asyncio.to_thread(main, ["move", f"sqlite:///{path}", secretly]) == 0
    capfd.readouterr()
    for command in ("serve", "migrate"):
        words = [command, "--database-url", f"sqlite:///{path}"]
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dispatcher", *words), stderr=asyncio.subprocess.PIPE
        )
        said = (await running.communicate())[1].decode()
        assert running.returncode == 3
        assert url.split("?")[0] in said
        assert "test-password" not in said
        assert said.count("\n") == 1
    (check, *_) = doctors.sqlite(Settings(database_url=f"sqlite:///{path}"))
    assert (check.state, url.split("?")[0] in check.message) == ("bad", True)
    backup = ["backup", str(tmp_path / "copy.db"), "--database-url", f"sqlite:///{path}"]
    assert await asyncio.to_thread(main, backup) == 0
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE moved")
    connection.close()
    store = open_store(settings_of(f"sqlite:///{path}"))
    await store.open()
    await store.close()


async def test_an_interrupted_move_leaves_a_file_that_can_be_used(tmp_path: Path, url: str) -> None:
    """It was not moved yet."""
    path = tmp_path / "old.db"
    await filled(path, 5)

    def interrupt(_table: str, _there: int, _total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        await asyncio.to_thread(move, path, url, interrupt)
    store = open_store(settings_of(f"sqlite:///{path}"))
    await store.open()
    await store.close()


@pytest.mark.parametrize("fault", ["psycopg", "sqlite", "any", "file"])
async def test_whatever_ends_a_move_the_next_one_may_follow_at_once(
    tmp_path: Path, url: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of the database and that of the file are let go."""
    path = tmp_path / "old.db"
    await filled(path, 20)
    errors: dict[str, Exception] = {
        "psycopg": psycopg.errors.DiskFull("test"),
        "sqlite": sqlite3.DatabaseError("test"),
        "any": ValueError("test"),
    }

    def failing(table: str, there: int, _total: int) -> None:
        if table == "callbacks" and there:
            raise errors[fault]

    if fault == "file":
        whole = path.read_bytes()
        path.write_bytes(b"garbage" * 1_000)
        with pytest.raises(CannotStart, match="not a database"):
            await asyncio.to_thread(move, path, url, quiet)
        path.write_bytes(whole)
    else:
        with pytest.raises((StoreUnavailable, ValueError)):
            await asyncio.to_thread(move, path, url, failing)
    moved = await asyncio.to_thread(move, path, url, quiet)
    assert moved.differing == []


async def test_a_move_that_was_killed_keeps_nobody_waiting(tmp_path: Path, url: str) -> None:
    """In the middle of it, by kill -9: the same command again."""
    path = tmp_path / "old.db"
    await filled(path, 20)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from dispatcher.store.postgres.move import move\n"
        "def die(table, there, total):\n"
        "    if table == 'callbacks' and there: os.kill(os.getpid(), signal.SIGKILL)\n"
        "move(Path(sys.argv[1]), sys.argv[2], die, kids={'k1'})\n"
    )
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), url, stderr=asyncio.subprocess.PIPE
    )
    _, said = await killed.communicate()
    assert killed.returncode == -9, said.decode()
    assert (await asyncio.to_thread(move, path, url, quiet)).differing == []


async def test_ctrl_c_and_the_same_command_again(tmp_path: Path, url: str) -> None:
    """As a person does it: the signal meets the move wherever it is, here in a COPY that waits for
    its rows. The command says in a line that it stopped; the next one goes on at once."""
    path = tmp_path / "old.db"
    await filled(path, 20)
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & has it ignored
        "from dispatcher.cli import main\n"
        "from dispatcher.store.postgres import move\n"
        "text = move.text\n"
        "def stop(value):\n"
        "    if value == 'job-7': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return text(value)\n"
        "move.text = stop\n"
        "sys.exit(main(['move', *sys.argv[1:]]))\n"
    )
    words = [f"sqlite:///{path}", url]
    stopped = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *words, stderr=asyncio.subprocess.PIPE
    )
    _, told = await stopped.communicate()
    assert stopped.returncode == 1, told.decode()
    assert told.decode().endswith("error: stopped\n  try: run it again: it goes on from here\n")
    with psycopg.connect(url) as connection:
        there = connection.execute("SELECT count(*) FROM callbacks").fetchone()
    assert there == (0,)  # the slice that was interrupted is none
    assert await asyncio.to_thread(main, ["move", *words]) == 0


async def test_the_command_says_what_it_moved(
    tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.db"
    await filled(path, 20)
    arguments = ["move", f"sqlite:///{path}", url]
    assert await asyncio.to_thread(main, ["--json", *arguments]) == 0
    assert '"callbacks":20' in capfd.readouterr().out
    assert await asyncio.to_thread(main, arguments) == 1
    assert "already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("sqlite:////nowhere/x.db", "postgresql://u:test-password@127.0.0.1:1/x", "no database"),
        ("postgresql://a/b", "postgresql://a/c", "sqlite:///"),
        ("sqlite:///x.db", "mysql://a/b", "postgresql://"),
    ],
)
def test_a_move_from_or_to_nowhere_is_one_clear_line(
    source: str, target: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["move", source, target]) == 3
    error = capfd.readouterr().err
    assert said in error
    assert "test-password" not in error


async def test_what_is_sealed_is_moved_only_to_where_its_keys_will_be(
    tmp_path: Path, url: str
) -> None:
    """The key file stays behind: without its keys nothing is moved, and the command is told that
    helps; with them the same bytes open in the new place."""
    path = tmp_path / "old.db"
    settings = Settings(database_url=f"sqlite:///{path}")
    world = World(make=lambda: open_store(settings), store=open_store(settings))
    await world.open()
    await world.register("named", headers=(("X-A", "1"),))
    await world.store.close()
    file = key_file_of(path)
    error = await raises(CannotStart, asyncio.to_thread(move, path, url, quiet))
    assert f'DISPATCHER_ENCRYPTION_KEYS="$(cat {file})"' in str(error)
    keys = file.read_text()
    kid = keys.partition(":")[0]
    await asyncio.to_thread(mover.move, path, url, quiet, kids={kid})
    with pytest.raises(CannotStart, match=kid):
        await open_store(Settings(database_url=url)).open()
    store = open_store(Settings(database_url=url, encryption_keys=keys))
    await store.open()
    try:
        assert all(one.unopened is None for one in await store.secrets(TENANT))
        assert (await store.get_destination(TENANT, "named")).headers == (("X-A", "1"),)
    finally:
        await store.close()
