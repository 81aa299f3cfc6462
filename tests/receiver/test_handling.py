"""The customer's code: called once, again when it fails, never twice at once, and never lost."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from receiver import Event, Receiver, Settings
from receiver.base.settings import SettingError
from receiver.handling.handlers import Handlers
from receiver.testing import Client, Clock
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
ADMIN = {"Authorization": "Bearer test-admin-key-of-tests"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{tmp_path}/inbox.db",
        effects_url=f"sqlite:///{tmp_path}/shop.db",
        admin_key="test-admin-key-of-tests",
        handler_attempts=3,
        handler_timeout=5.0,
        drain_grace=0.1,
    )


@pytest.fixture
def shop(tmp_path: Path) -> Callable[[], list[Any]]:
    """The customer's table, and what is in it."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute("CREATE TABLE effects (job TEXT, status TEXT)")

    def rows() -> list[Any]:
        with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
            return db.execute("SELECT job, status FROM effects").fetchall()

    return rows


def write(tx: Any, event: Event) -> Any:
    return tx.execute("INSERT INTO effects VALUES (?, ?)", (event.job_id, event.status))


@asynccontextmanager
async def opened(
    settings: Settings, handlers: dict[str, Any], **more: Any
) -> AsyncIterator[Client]:
    clock = Clock()
    receiver = Receiver(settings, now_ms=clock, **more)
    for status, function in handlers.items():
        receiver.on(status)(function)
    async with Client(receiver, SECRET, clock=clock) as client:
        yield client


def job(id: str = "job_1", status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"jobId": id, "status": status, **fields}


async def states(client: Client) -> list[tuple[str, str, int]]:
    page = await client.receiver.inbox.page()
    return [(m.job_id or "", m.state, m.attempts) for m in reversed(page.messages)]


async def test_each_status_goes_to_its_own_handler_sync_or_async(settings: Settings) -> None:
    """`on("completed")`, one for two statuses, and `*` for the rest."""
    called: list[tuple[str, str]] = []

    async def done(event: Event) -> None:
        called.append(("done", event.status))

    def bad(event: Event) -> None:
        called.append(("bad", event.status))

    def rest(event: Event) -> None:
        called.append(("rest", event.status))

    clock = Clock()
    receiver = Receiver(settings, now_ms=clock)
    receiver.on("completed")(done)
    receiver.on("failed", "timeout")(bad)
    receiver.on("*")(rest)
    async with Client(receiver, SECRET, clock=clock) as client:
        for n, status in enumerate(("completed", "failed", "TIMED_OUT", "running", "other")):
            assert await client.send(job(f"job_{n}", status)) == "accepted"
        await client.idle()
    assert sorted(called) == [
        ("bad", "failed"),
        ("bad", "timeout"),
        ("done", "completed"),
        ("rest", "running"),
        ("rest", "unknown"),
    ]


async def test_the_handler_runs_after_the_answer(settings: Settings) -> None:
    """A handler that takes its time keeps no sender waiting."""
    release = asyncio.Event()

    async def slow(event: Event) -> None:
        await release.wait()

    async with opened(settings, {"*": slow}) as client:
        assert await client.send(job()) == "accepted"
        release.set()
        await client.idle()
        assert await states(client) == [("job_1", "handled", 1)]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_effect_and_mark_commit_together(
    settings: Settings, shop: Callable[[], list[Any]], kind: str
) -> None:
    """A handler that fails after its write leaves nothing; the attempt that holds leaves one."""
    attempts: list[int] = []

    def fail_twice(event: Event) -> None:
        attempts.append(event.attempt)
        if event.attempt < 3:
            raise RuntimeError("not yet")

    def sync(event: Event, tx: Any) -> None:
        write(tx, event)
        fail_twice(event)

    async def async_(event: Event, tx: Any) -> None:
        await write(tx, event)
        fail_twice(event)

    async with opened(settings, {"completed": sync if kind == "sync" else async_}) as client:
        await client.send(job())
        await client.idle()
        assert (shop(), await states(client)) == ([], [("job_1", "pending", 1)])
        await client.advance(timedelta(seconds=2))
        await client.advance(timedelta(seconds=4))
        assert shop() == [("job_1", "completed")]
        assert await states(client) == [("job_1", "handled", 3)]
    assert attempts == [1, 2, 3]


async def test_the_mark_in_the_customers_database_is_the_one_that_counts(
    settings: Settings, shop: Callable[[], list[Any]], tmp_path: Path
) -> None:
    """The inbox lost, and every message sent again: no effect happens again."""
    for n in range(2):
        fresh = replace(settings, database_url=f"sqlite:///{tmp_path}/inbox{n}.db")
        async with opened(fresh, {"*": lambda event, tx: write(tx, event)}) as client:
            assert await client.send(job(), message_id="cb_1") == "accepted"
            await client.idle()
            assert await states(client) == [("job_1", "handled", 1)]
    assert shop() == [("job_1", "completed")]


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "BEGIN"])
async def test_a_handler_cannot_end_its_transaction_itself(
    settings: Settings, shop: Callable[[], list[Any]], statement: str
) -> None:
    """SQLite refuses, the attempt fails, and nothing of it stays."""

    def sly(event: Event, tx: Any) -> None:
        write(tx, event)
        tx.execute(statement)

    async with opened(settings, {"*": sly}) as client:
        await client.send(job())
        await client.idle()
        assert (shop(), await states(client)) == ([], [("job_1", "pending", 1)])


async def test_what_keeps_failing_is_dead_with_its_traceback_and_can_be_replayed(
    settings: Settings,
) -> None:
    """By the admin route; it then starts afresh."""
    broken = True

    def handler(event: Event) -> None:
        if broken:
            raise ValueError("no such order")

    async with opened(settings, {"*": handler}) as client:
        await client.send(job())
        await client.idle()
        for _ in range(2):
            await client.advance(timedelta(hours=1))
        assert await states(client) == [("job_1", "dead", 3)]
        await client.advance(timedelta(days=30))
        assert await states(client) == [("job_1", "dead", 3)]
        shown = await client.receiver.inbox.show(1)
        assert shown is not None
        assert "ValueError: no such order" in (shown.error or "")
        assert "in handler" in (shown.error or "")
        broken = False
        http = client._http
        answer = await http.post("/inbox/1/replay", headers=ADMIN)
        assert (answer.status_code, answer.json()["state"]) == (202, "pending")
        await client.idle()
        assert await states(client) == [("job_1", "handled", 1)]
        assert (await http.get("/inbox/1", headers=ADMIN)).json()["lastError"] is None
        again = await http.post("/inbox/1/replay", headers=ADMIN)
        assert again.status_code == 409
        assert "it is handled" in again.json()["message"]


async def test_a_duplicate_of_a_dead_one_arms_it_again(settings: Settings) -> None:
    """That is what an operator's replay at the dispatcher is for; of a handled one it does
    nothing."""
    calls = 0

    def handler(event: Event) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError

    async with opened(replace(settings, handler_attempts=1), {"*": handler}) as client:
        await client.send(job(), message_id="cb_1")
        await client.idle()
        assert await states(client) == [("job_1", "dead", 1)]
        for _ in range(2):
            assert await client.send(job(), message_id="cb_1") == "duplicate"
            await client.idle()
            assert await states(client) == [("job_1", "handled", 1)]
    assert calls == 2


async def test_all_dead_ones_are_replayed_together(settings: Settings) -> None:
    """And only they."""
    broken = True

    def handler(event: Event) -> None:
        if broken:
            raise RuntimeError

    async with opened(replace(settings, handler_attempts=1), {"completed": handler}) as client:
        for n in range(5):
            await client.send(job(f"job_{n}"))
        await client.send(job("job_x", "failed"))
        await client.idle()
        broken = False
        answer = await client._http.post("/inbox/replay?state=dead", headers=ADMIN)
        assert answer.json() == {"replayed": 5}
        await client.idle()
        assert {state for _, state, _ in await states(client)} == {"handled", "ignored"}


async def test_handlers_of_one_job_never_overlap_and_others_run_beside(
    settings: Settings,
) -> None:
    """Six messages of one job in turn, in order; four jobs at once, up to the limit."""
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    order: list[int] = []
    together = 0

    async def handler(event: Event) -> None:
        nonlocal together
        running[event.job_id] = running.get(event.job_id, 0) + 1
        most[event.job_id] = max(most.get(event.job_id, 0), running[event.job_id])
        together = max(together, sum(running.values()))
        await asyncio.sleep(0.01)
        if event.job_id == "job_0":
            order.append(event.output)
        running[event.job_id] -= 1

    async with opened(replace(settings, handler_concurrency=3), {"*": handler}) as client:
        for n in range(6):
            for id in range(4):
                await client.send(job(f"job_{id}", "running", output=n))
        await client.idle()
    assert set(most.values()) == {1}
    assert together == 3
    assert order == list(range(6))


async def test_an_async_handler_that_hangs_is_cancelled_at_its_timeout(
    settings: Settings,
) -> None:
    """And tried again later; the traceback says why."""
    cancelled = 0

    async def hang(event: Event) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async with opened(replace(settings, handler_timeout=0.05), {"*": hang}) as client:
        await client.send(job())
        await client.idle()
        assert await states(client) == [("job_1", "pending", 1)]
        shown = await client.receiver.inbox.show(1)
        assert shown is not None
        assert "did not end within 0.05 s" in (shown.error or "")
    assert cancelled == 1


async def test_a_sync_handler_that_hangs_is_not_run_again_while_its_thread_lives(
    settings: Settings,
) -> None:
    """Its job waits, and others go on; the figures show it. When it ends after all, its work
    was done, and is not done again."""
    release = threading.Event()
    calls: list[str] = []

    def hang(event: Event) -> None:
        calls.append(event.job_id)
        if event.job_id == "hangs":
            release.wait(60)

    async with opened(replace(settings, handler_timeout=0.05), {"*": hang}) as client:
        await client.send(job("hangs", "running"))
        await client.send(job("hangs", "completed"))
        await client.send(job("other"))

        async def hanging() -> bool:
            return "hanging_handlers 1" in (await client._http.get("/metrics")).text

        await until(hanging)
        assert client._clock is not None
        client._clock.advance(timedelta(days=1))
        client.receiver.wake()
        assert await client.send(job("third")) == "accepted"
        await until(lambda: "third" in calls)
        assert calls.count("hangs") == 1
        release.set()
        await client.idle()
        assert {state for _, state, _ in await states(client)} == {"handled"}
    assert calls.count("hangs") == 2


async def test_handlers_that_hang_keep_no_others_from_starting_until_there_are_too_many(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two places: two that hang leave both of them to others; four take both, and all others
    wait, which the log and the figures say. Each ends in its own time and is not run twice."""
    monkeypatch.setattr("receiver.handling.worker.CANCEL_GRACE_S", 0.01)
    caplog.set_level("ERROR", "receiver")
    release = threading.Event()
    calls: list[str] = []

    def handler(event: Event) -> None:
        calls.append(event.job_id)
        if event.job_id.startswith("hangs"):
            release.wait(60)

    few = replace(settings, handler_timeout=0.02, handler_concurrency=2)
    async with opened(few, {"*": handler}) as client:

        async def hanging() -> int:
            text = (await client._http.get("/metrics")).text
            return int(text.split("\nreceiver_hanging_handlers ")[1].split("\n")[0])

        async def send_hanging(numbers: range) -> None:
            for n in numbers:
                await client.send(job(f"hangs_{n}"))
            await until(lambda: len(calls) >= numbers.stop)

        await send_hanging(range(2))
        await client.send(job("other"))
        await until(lambda: "other" in calls)
        await send_hanging(range(2, 4))

        def is_stuck() -> bool:
            return client.receiver.is_stuck

        await until(is_stuck)
        assert await hanging() == 4
        ready = await client._http.get("/readyz")
        assert (ready.status_code, ready.json()["handling"]) == (200, "stuck")
        await client.send(job("waits"))
        assert "handling waits" in caplog.text
        client.receiver.wake()
        assert await hanging() == 4
        assert (await states(client))[-1] == ("waits", "pending", 0)
        release.set()
        await client.idle()
        assert (await hanging(), calls[-1], len(calls)) == (0, "waits", 6)
        assert (await client._http.get("/readyz")).json() == {"status": "ready"}
        assert {state for _, state, _ in await states(client)} == {"handled"}


async def test_a_hanging_handler_with_tx_gives_the_database_back_at_once(
    settings: Settings, shop: Callable[[], list[Any]]
) -> None:
    """Rolled back at its timeout, while its thread still lives; nothing it does later counts."""
    release = threading.Event()
    late: list[str] = []

    def hang(event: Event, tx: Any) -> None:
        write(tx, event)
        if event.job_id == "hangs" and event.attempt == 1:
            release.wait(60)
            for late_write in (tx.connection.execute, tx.execute):
                try:
                    late_write("INSERT INTO effects VALUES ('late', 'late')")
                except Exception as error:
                    late.append(type(error).__name__)
            write(tx, event)

    async with opened(replace(settings, handler_timeout=0.2), {"*": hang}) as client:
        await client.send(job("hangs"))
        await client.send(job("other"))
        await until(lambda: shop() == [("other", "completed")])
        release.set()
        await client.idle()
        assert late == ["DatabaseError", "TransactionClosed"]
        assert shop() == [("other", "completed")]
        await client.advance(timedelta(hours=1))
        assert shop() == [("other", "completed"), ("hangs", "completed")]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_attempts_that_end_at_their_timeout_have_one_effect_or_none(
    settings: Settings, shop: Callable[[], list[Any]], kind: str
) -> None:
    """A hundred jobs whose handlers take about as long as they may: however commit and timeout
    meet, each effect is there once in the end, and the database is never left locked."""
    random = Random(7)

    def sync(event: Event, tx: Any) -> None:
        write(tx, event)
        time.sleep(random.uniform(0, 0.02) / event.attempt)

    async def async_(event: Event, tx: Any) -> None:
        await write(tx, event)
        await asyncio.sleep(random.uniform(0, 0.02) / event.attempt)

    short = replace(
        settings,
        handler_timeout=0.01,
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


async def test_handlers_raise_what_they_like(settings: Settings) -> None:
    """sys.exit() and StopIteration end the attempt, not the receiver."""

    def sync(event: Event) -> None:
        raise SystemExit if event.job_id == "exit" else StopIteration

    async def async_(event: Event) -> None:
        raise KeyboardInterrupt

    async with opened(settings, {"completed": sync, "failed": async_}) as client:
        for id, status in (("exit", "completed"), ("stop", "completed"), ("key", "failed")):
            await client.send(job(id, status))
        await client.idle()
        assert {state for _, state, _ in await states(client)} == {"pending"}


async def test_a_stop_hands_back_what_it_cuts_short(settings: Settings) -> None:
    """The attempt is not spent, and the next start runs it."""
    started = asyncio.Event()

    async def hang(event: Event) -> None:
        started.set()
        await asyncio.Event().wait()

    async with opened(settings, {"*": hang}) as client:
        await client.send(job())
        await started.wait()
    attempts: list[int] = []
    async with opened(settings, {"*": lambda event: attempts.append(event.attempt)}) as client:
        await client.idle()
        assert await states(client) == [("job_1", "handled", 1)]
    assert attempts == [1]


async def test_progress_that_waits_for_a_retry_never_comes_after_the_end(
    settings: Settings, shop: Callable[[], list[Any]]
) -> None:
    """The end overtakes it, and it is skipped; after that it cannot be replayed either."""

    def handler(event: Event, tx: Any) -> None:
        if event.status == "running":
            raise RuntimeError
        write(tx, event)

    async with opened(settings, {"*": handler}) as client:
        await client.send(job(status="running"))
        await client.idle()
        await client.send(job())
        await client.idle()
        assert [state for _, state, _ in await states(client)] == ["skipped", "handled"]
        assert await client.send(job(status="queued")) == "late"
        await client.advance(timedelta(days=1))
        assert shop() == [("job_1", "completed")]
        answer = await client._http.post("/inbox/1/replay", headers=ADMIN)
        assert "handled already, in another message" in answer.json()["message"]


async def test_a_message_that_no_handler_wants_is_kept_and_can_be_replayed_later(
    settings: Settings,
) -> None:
    """Deployed without its handler, or with another one."""
    async with opened(settings, {"failed": lambda event: None}) as client:
        await client.send(job())
        await client.idle()
        assert await states(client) == [("job_1", "ignored", 0)]
    called: list[str] = []
    async with opened(settings, {"*": lambda event: called.append(event.job_id)}) as client:
        assert await client.receiver.replay(1)
        await client.idle()
    assert called == ["job_1"]


async def test_a_conflict_is_not_handled_and_not_replayed(settings: Settings) -> None:
    """It is kept for people to look at."""
    called: list[str] = []
    async with opened(settings, {"*": lambda event: called.append(event.status)}) as client:
        await client.send(job())
        assert await client.send(job(status="failed")) == "conflict"
        await client.idle()
        answer = await client._http.post("/inbox/2/replay", headers=ADMIN)
        assert (answer.status_code, answer.json()["error"]) == (409, "CONFLICT")
        assert "conflict" in answer.json()["message"]
    assert called == ["completed"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/inbox/replay", 422),
        ("/inbox/replay?state=handled", 422),
        ("/inbox/replay?state=dead&state=dead", 422),
        ("/inbox/99/replay", 404),
        ("/inbox/x/replay", 404),
        ("/inbox/1/2/replay", 404),
        ("/inbox/prune?olderThan=-1", 422),
        ("/inbox/prune?olderThan=x", 422),
    ],
)
async def test_bad_commands_of_an_operators_change_nothing(
    settings: Settings, path: str, status: int
) -> None:
    """Each says what is wrong."""
    async with opened(settings, {"*": lambda event: None}) as client:
        assert (await client._http.post(path, headers=ADMIN)).status_code == status
        assert (await client._http.post(path)).status_code == 401


def test_a_handler_that_cannot_be_one_is_told_when_it_is_registered() -> None:
    """Not when the first completion comes."""
    handlers = Handlers()
    handlers.add(lambda event: None, "completed")
    for statuses in ((), ("complete",), ("completed",)):
        with pytest.raises(ValueError, match=r"status|completed|handles"):
            handlers.add(lambda event: None, *statuses)
    functions: list[Any] = [lambda: None, lambda a, b, c: None, lambda a, *, b: None, 7]
    for function in functions:
        with pytest.raises(TypeError):
            handlers.add(function, "failed")
    assert handlers.find("failed") is None


async def test_tx_without_a_database_is_told_at_the_start(settings: Settings) -> None:
    """It names the handler and the setting."""

    def fulfil(event: Event, tx: Any) -> None: ...

    receiver = Receiver(replace(settings, effects_url=None))
    receiver.on("*")(fulfil)
    with pytest.raises(SettingError, match=r"RECEIVER_EFFECTS_URL.*fulfil"):
        await receiver.__aenter__()
