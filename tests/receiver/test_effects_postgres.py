"""The customer's database is PostgreSQL: effect and mark commit together, or not at all."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from receiver import Event, Receiver, Settings
from receiver.handling.effects import open_effects
from receiver.handling.effects.postgres import PostgresEffects
from receiver.handling.tx import EffectsError, TransactionClosed
from receiver.testing import Client, Clock
from tests.dispatcher.postgres.proxy import proxied
from tests.dispatcher.postgres.server import database
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
Rows = Callable[[], list[Any]]


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture
def url(database_url: str) -> str:
    """A database with the customer's table, and nothing else in it."""
    with psycopg.connect(database_url) as db:
        db.execute("DROP TABLE IF EXISTS effects, postback_handled")
        db.execute("CREATE TABLE effects (job text, status text)")
    return database_url


@pytest.fixture
def shop(url: str) -> Iterator[Rows]:
    """What is in the customer's table."""
    with psycopg.connect(url, autocommit=True) as db:
        yield lambda: db.execute("SELECT job, status FROM effects").fetchall()


@pytest.fixture
def settings(tmp_path: Path, url: str) -> Settings:
    return Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{tmp_path}/inbox.db",
        effects_url=url,
        handler_attempts=3,
        drain_grace=0.1,
    )


@pytest.fixture
def effects(settings: Settings) -> Iterator[PostgresEffects]:
    opened = open_effects(settings)
    assert isinstance(opened, PostgresEffects)
    yield opened
    opened.close()


EVENT = Event(job_id="job_1", status="completed", source="/webhooks", message_id="cb_1")
INSERT = "INSERT INTO effects VALUES (%s, %s)"


def write(tx: Any, event: Event) -> Any:
    return tx.execute(INSERT, (event.job_id, event.status))


@asynccontextmanager
async def opened(settings: Settings, handler: Any) -> AsyncIterator[Client]:
    clock = Clock()
    receiver = Receiver(settings, now_ms=clock)
    receiver.on("*")(handler)
    async with Client(receiver, SECRET, clock=clock) as client:
        yield client


def job(id: str = "job_1") -> dict[str, Any]:
    return {"jobId": id, "status": "completed"}


async def states(client: Client) -> list[tuple[str, int]]:
    page = await client.receiver.inbox.page()
    return [(m.state, m.attempts) for m in reversed(page.messages)]


async def why(client: Client) -> str:
    """The last attempt's traceback."""
    shown = await client.receiver.inbox.show(1)
    return (shown.error or "") if shown else ""


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_effect_and_mark_commit_together(settings: Settings, shop: Rows, kind: str) -> None:
    """A handler that fails after its write leaves nothing; the attempt that holds leaves one."""

    def fail_twice(event: Event) -> None:
        if event.attempt < 3:
            raise RuntimeError("not yet")

    def sync(event: Event, tx: Any) -> None:
        assert write(tx, event).rowcount == 1
        fail_twice(event)

    async def async_(event: Event, tx: Any) -> None:
        await tx.executemany(INSERT, [(event.job_id, event.status)])
        cursor = await tx.execute("SELECT count(*) FROM effects")
        assert cursor.fetchone() == (1,)
        fail_twice(event)

    async with opened(settings, sync if kind == "sync" else async_) as client:
        await client.send(job())
        await client.idle()
        assert (shop(), await states(client)) == ([], [("pending", 1)])
        await client.advance(timedelta(seconds=2))
        await client.advance(timedelta(seconds=4))
        assert shop() == [("job_1", "completed")]
        assert await states(client) == [("handled", 3)]


async def test_the_mark_in_the_customers_database_is_the_one_that_counts(
    settings: Settings, shop: Rows, tmp_path: Path
) -> None:
    """The inbox lost, and every message sent again: no effect happens again."""
    for n in range(2):
        fresh = replace(settings, database_url=f"sqlite:///{tmp_path}/inbox{n}.db")
        async with opened(fresh, lambda event, tx: write(tx, event)) as client:
            await client.send(job("jöb ’1’ 🚀"), message_id="cb_1")
            await client.idle()
            assert await states(client) == [("handled", 1)]
    assert shop() == [("jöb ’1’ 🚀", "completed")]


@pytest.mark.parametrize("first_commits", [True, False])
def test_of_two_replicas_at_the_same_message_one_waits_for_the_other(
    effects: PostgresEffects, shop: Rows, url: str, first_commits: bool
) -> None:
    """The second one finds the mark, or has the message to itself once the first has given up."""
    first, found = effects.begin(), []

    def second() -> None:
        transaction = effects.begin()
        found.append(transaction.mark(EVENT, 2))
        if found[0]:
            write(transaction.tx, EVENT)
        transaction.commit()
        transaction.close()

    assert first.mark(EVENT, 1)
    write(first.tx, EVENT)
    thread = threading.Thread(target=second)
    thread.start()
    _wait_for_a_lock(url)
    if first_commits:
        first.commit()
    first.close()
    thread.join(60)
    assert found == [not first_commits]
    assert shop() == [("job_1", "completed")]


def _wait_for_a_lock(url: str) -> None:
    """Until somebody waits for somebody else's transaction."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with psycopg.connect(url, autocommit=True) as db:
        while db.execute(waiting).fetchone() == (0,):
            pass


def leave_open(block: Any) -> None:
    block.__enter__()
    LEFT_OPEN.append(block)  # or the collector would leave it


LEFT_OPEN: list[Any] = []
ENDINGS: dict[str, Callable[[Any], Any]] = {
    "a statement": lambda tx: tx.execute("COMMIT"),
    "bytes": lambda tx: tx.execute(b"ROLLBACK"),
    "composed": lambda tx: tx.execute(psycopg.sql.SQL("COMMIT")),
    "among others": lambda tx: tx.execute("INSERT INTO effects VALUES (1, 1); COMMIT; BEGIN"),
    "on the connection": lambda tx: tx.connection.execute("END"),
    "on a cursor": lambda tx: tx.connection.cursor().execute("ABORT"),
    "many": lambda tx: tx.executemany("BEGIN", [()]),
    "commit()": lambda tx: tx.connection.commit(),
    "rollback()": lambda tx: tx.connection.rollback(),
    "close()": lambda tx: tx.connection.close(),
    "unseen": lambda tx: tx.execute("/* /* */ */ ROLLBACK"),
    "unseen, and another begun": lambda tx: tx.execute("/* /* */ */ ROLLBACK; BEGIN"),
    "a pipeline left open": lambda tx: leave_open(tx.connection.pipeline()),
    "a block left open": lambda tx: leave_open(tx.connection.transaction()),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_handler_cannot_end_its_transaction_itself(
    settings: Settings, shop: Rows, ending: str
) -> None:
    """The attempt fails and nothing of it stays, whether the handler lets the error through or
    not (as long as something is wrong with the transaction then)."""

    def sly(event: Event, tx: Any) -> None:
        write(tx, event)
        with suppress(psycopg.Error):
            ENDINGS[ending](tx)
            return
        raise RuntimeError("refused")

    async with opened(settings, sly) as client:
        await client.send(job())
        await client.idle()
        assert (shop(), await states(client)) == ([], [("pending", 1)])
    for block in LEFT_OPEN:
        with suppress(psycopg.Error):
            block.__exit__(None, None, None)
    LEFT_OPEN.clear()


async def test_a_statement_that_failed_unnoticed_is_a_failed_attempt(
    settings: Settings, shop: Rows
) -> None:
    """PostgreSQL answers COMMIT with a rollback then; it must never count as handled. A savepoint
    lets the handler go on."""

    def careless(event: Event, tx: Any) -> None:
        write(tx, event)
        with suppress(psycopg.Error):
            if event.attempt == 1:
                tx.execute("SELECT 1 / 0")
            else:
                with tx.connection.transaction():
                    tx.execute("SELECT 1 / 0")

    async with opened(settings, careless) as client:
        await client.send(job())
        await client.idle()
        assert (shop(), await states(client)) == ([], [("pending", 1)])
        assert "the handler went on as if it had not" in await why(client)
        await client.advance(timedelta(seconds=2))
        assert (shop(), await states(client)) == ([("job_1", "completed")], [("handled", 2)])


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_statement_that_hangs_is_cancelled_at_the_handlers_timeout(
    settings: Settings, shop: Rows, url: str, kind: str
) -> None:
    """Its locks are free at once, and nothing that comes after it reaches the database, on no
    way."""
    late: list[str] = []

    def try_again(tx: Any) -> None:
        for act in (tx.execute, tx.connection.execute):
            try:
                act("INSERT INTO effects VALUES ('late', 'late')")
            except Exception as error:
                late.append(type(error).__name__)

    def sync(event: Event, tx: Any) -> None:
        write(tx, event)
        try:
            if event.attempt == 1:
                tx.execute("SELECT pg_sleep(60)")
        except psycopg.Error:
            try_again(tx)

    async def async_(event: Event, tx: Any) -> None:
        await tx.execute(INSERT, (event.job_id, event.status))
        try:
            if event.attempt == 1:
                await tx.execute("SELECT pg_sleep(60)")
        finally:
            if event.attempt == 1:
                await asyncio.to_thread(try_again, tx._tx)

    handler = sync if kind == "sync" else async_
    async with opened(replace(settings, handler_timeout=0.2), handler) as client:
        await client.send(job())
        await client.idle()
        assert await states(client) == [("pending", 1)]
        assert "did not end within" in await why(client)
        assert (late[0], len(late)) == ("TransactionClosed", 2)
        await until(lambda: _running(url) == 0)
        await client.advance(timedelta(seconds=2))
        assert (shop(), await states(client)) == ([("job_1", "completed")], [("handled", 2)])


def _running(url: str) -> int:
    """How many sessions of ours are at work, or in a transaction."""
    with psycopg.connect(url, autocommit=True) as db:
        (count,) = db.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postback effects' "
            "AND datname = current_database() AND state <> 'idle'"
        ).fetchone() or (0,)
    return int(count)


async def test_a_thread_that_hangs_outside_the_database_gives_its_locks_back_at_once(
    settings: Settings, shop: Rows, url: str
) -> None:
    """Rolled back at its timeout, while its thread still lives."""
    release = threading.Event()

    def hang(event: Event, tx: Any) -> None:
        write(tx, event)
        if event.attempt == 1:
            release.wait(60)
            write(tx, event)

    async with opened(replace(settings, handler_timeout=0.1), hang) as client:
        await client.send(job())
        await until(lambda: _running(url) == 1)
        await until(lambda: _running(url) == 0)
        release.set()
        await client.idle()
        assert (shop(), await states(client)) == ([], [("pending", 1)])


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_attempts_that_end_at_their_timeout_have_one_effect_or_none(
    settings: Settings, shop: Rows, kind: str
) -> None:
    """A hundred jobs whose handlers take about as long as they may: however statement, commit and
    timeout meet, each effect is there once in the end."""
    random = Random(7)

    def sync(event: Event, tx: Any) -> None:
        write(tx, event)
        tx.execute("SELECT pg_sleep(%s)", (random.uniform(0, 0.03) / event.attempt,))

    async def async_(event: Event, tx: Any) -> None:
        await tx.execute(INSERT, (event.job_id, event.status))
        await tx.execute("SELECT pg_sleep(%s)", (random.uniform(0, 0.03) / event.attempt,))

    short = replace(
        settings,
        handler_timeout=0.02,
        handler_attempts=50,
        handler_retry_base=0.001,
        handler_retry_cap=0.002,
    )
    receiver = Receiver(short)
    receiver.on("*")(sync if kind == "sync" else async_)
    async with Client(receiver, SECRET) as client:
        for n in range(100):
            await client.send(job(f"job_{n}"))

        async def all_handled() -> bool:
            backlog = await receiver.inbox.backlog()
            return backlog.pending + backlog.running == 0

        await until(all_handled)
        assert (await receiver.inbox.backlog()).dead == 0
    assert sorted(shop()) == sorted((f"job_{n}", "completed") for n in range(100))


@pytest.mark.parametrize("fault", ["answer lost", "commit lost"])
async def test_a_connection_lost_while_committing_is_a_failed_attempt_that_the_mark_explains(
    settings: Settings, shop: Rows, url: str, fault: Any
) -> None:
    """Whether the server committed or not: one effect in the end."""
    async with proxied(url) as proxy:
        proxied_settings = replace(settings, effects_url=proxy.url)
        async with opened(proxied_settings, lambda event, tx: write(tx, event)) as client:
            proxy.fault = fault
            await client.send(job())
            await client.idle()
            assert await states(client) == [("pending", 1)]
            assert len(shop()) == (1 if fault == "answer lost" else 0)
            await client.advance(timedelta(seconds=2))
            assert (shop(), await states(client)) == ([("job_1", "completed")], [("handled", 2)])


async def test_lost_connections_are_replaced_without_a_failed_attempt(
    settings: Settings, shop: Rows, url: str
) -> None:
    """As after a restart of the server: what idled is gone, and nobody notices."""
    async with proxied(url) as proxy:
        proxied_settings = replace(settings, effects_url=proxy.url)
        async with opened(proxied_settings, lambda event, tx: write(tx, event)) as client:
            for n in range(3):
                await client.send(job(f"job_{n}"))
                await client.idle()
                proxy.cut()
            assert await states(client) == [("handled", 1)] * 3
            proxy.refusing = True
            await client.send(job("job_3"))
            await client.idle()
            assert (await states(client))[-1] == ("pending", 1)
            proxy.refusing = False
            await client.advance(timedelta(seconds=2))
            assert (await states(client))[-1] == ("handled", 2)
    assert len(shop()) == 4


def test_what_a_handler_leaves_in_its_session_is_not_the_next_ones(
    effects: PostgresEffects,
) -> None:
    """The connection is the same one; its settings, tables, locks and row factory are new."""
    pids = []
    for n in range(2):
        transaction = effects.begin()
        assert transaction.mark(replace(EVENT, message_id=f"cb_{n}"), n)
        tx = transaction.tx
        pids.append(tx.connection.info.backend_pid)
        assert tx.execute("SHOW search_path").fetchone() == ('"$user", public',)
        tx.execute("SET search_path = elsewhere, public")
        tx.execute("CREATE TEMPORARY TABLE mine (id int)")
        tx.execute("SELECT pg_advisory_lock(1)")
        tx.connection.row_factory = psycopg.rows.dict_row
        transaction.commit()
        with pytest.raises(TransactionClosed):
            tx.execute("SELECT 1")
    assert pids[0] == pids[1]


def test_marks_go_after_their_time(effects: PostgresEffects) -> None:
    """And no others, nor those of another service; what they were for would then be new."""
    for n in range(3):
        transaction = effects.begin()
        assert transaction.mark(replace(EVENT, message_id=f"cb_{n}"), n)
        transaction.commit()
    effects.forget(9, ["/another"])
    effects.forget(2, ["/another", EVENT.source])
    for n, is_new in enumerate([True, True, False]):
        transaction = effects.begin()
        assert transaction.mark(replace(EVENT, message_id=f"cb_{n}"), n) is is_new
        transaction.close()


def test_a_frozen_process_does_not_hold_its_mark_for_ever(url: str, settings: Settings) -> None:
    """The server itself ends a transaction in which nothing happens for longer than a handler
    may take."""
    effects = PostgresEffects(url, idle_max=1, handler_s=-4.9)  # 0.1 s with its margin
    effects.prepare()
    frozen, other = effects.begin(), effects.begin()
    assert frozen.mark(EVENT, 1)
    assert other.mark(EVENT, 2)
    with pytest.raises(psycopg.Error, match="idle-in-transaction timeout"):
        frozen.commit()
    for transaction in (frozen, other):
        transaction.close()
    effects.close()


def test_two_replicas_that_start_at_once_make_one_table(settings: Settings) -> None:
    """Neither fails."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        barrier.wait()
        try:
            open_effects(settings)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hidden-word@127.0.0.1:1/db",
        "postgresql://me:hidden-word@127.0.0.1:1/db?password=hidden-word",
        "postgresql://me:hidden-word@127.0.0.1:1/db?hidden-word=1",
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(
    settings: Settings, url: str
) -> None:
    """In one line, and before anything runs."""
    with pytest.raises(EffectsError, match=r"cannot use postgresql://me@127.0.0.1:1/db: ") as told:
        open_effects(replace(settings, effects_url=url))
    assert "hidden-word" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_missing_driver_is_told_with_what_to_install(settings: Settings) -> None:
    """And SQLite needs none."""
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from receiver import Receiver\n"
        "from receiver.handling.effects import open_effects\n"
        "from receiver.settings import Settings\n"
        "assert open_effects(Settings(effects_url=sys.argv[1]))\n"
        "open_effects(Settings(effects_url='postgresql://h/db'))\n"
    )
    shop = f"sqlite:///{settings.database_url.removeprefix('sqlite:///')}.shop"
    words = [sys.executable, "-c", program, shop]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.stderr.splitlines()[-1].endswith(
        'EffectsError: PostgreSQL needs its driver: pip install ".[postgres]" in a checkout'
    )
