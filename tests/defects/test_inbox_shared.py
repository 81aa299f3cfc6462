"""One process's configuration never decides for the others that share its inbox."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver import Event, Receiver, Settings, Source
from receiver.base.clock import now_ms
from receiver.inbox import wanted
from receiver.inbox.wanted import Beats
from receiver.testing import Client, Clock
from tests.receiver.conftest import empty_postgres, postgres_url  # noqa: F401 - fixtures
from tests.receiver.inbox.messages import NOW_MS, message
from tests.receiver.inbox.places import Place
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
SECRETS = {"/shop": SECRET, "/billing": "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI="}
KEY = "test-admin-key-of-tests"
DAY_MS = 86_400_000


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/inbox.db"
    return str(request.getfixturevalue("empty_postgres"))


def settings_of(url: str, **more: Any) -> Settings:
    return Settings(secrets=(SECRET,), database_url=url, admin_key=KEY, poll=0.05, **more)


def receiver_of(
    url: str, handler: Callable[..., Any], *statuses: str, clock: Clock | None = None, **more: Any
) -> Receiver:
    receiver = Receiver(settings_of(url, **more), now_ms=clock or now_ms)
    if statuses:
        receiver.on(*statuses)(handler)
    return receiver


def nothing(event: Event) -> None:
    """Handle it."""


async def states(receiver: Receiver) -> dict[str, str]:
    page = await receiver.inbox.page(limit=100)
    return {one.job_id or "": one.state for one in page.messages}


async def test_a_replica_leaves_what_it_cannot_handle_to_those_that_can(
    empty_postgres: str,  # noqa: F811
) -> None:
    """A rolling deploy that adds a handler, and web processes that only receive: whatever comes in
    wherever is handled, by one that has the handler, also while that one is busy."""
    ran: list[str] = []

    async def handle(event: Event) -> None:
        if event.job_id.startswith("long"):
            await asyncio.sleep(0.3)
        ran.append(event.job_id)

    old = receiver_of(empty_postgres, handle, "completed")
    new = receiver_of(empty_postgres, handle, "completed", "failed", handler_concurrency=1)
    web = receiver_of(empty_postgres, handle)
    async with Client(old, SECRET) as a, Client(new, SECRET) as b, Client(web, SECRET) as c:
        await a.send({"jobId": "failed_at_old", "status": "failed"})
        for n in range(4):
            await b.send({"jobId": f"long_{n}", "status": "completed"})
        for n in range(5):
            await b.send({"jobId": f"failed_at_new_{n}", "status": "FAILED"})
        await c.send({"jobId": "completed_at_web", "status": "success"})
        await c.send({"jobId": "failed_at_web", "status": "error"})
        await c.send({"jobId": "cancelled_at_web", "status": "cancelled"})  # nobody has it
        await until(lambda: len(ran) == 12)

        async def settled() -> bool:
            found = Counter((await states(web)).values())
            return found == {"handled": 12, "ignored": 1}

        await until(settled)
    assert len(set(ran)) == 12


async def test_two_services_on_one_database_keep_to_their_own(
    empty_postgres: str,  # noqa: F811
) -> None:
    """Completions, jobs that are waited for, and how long messages are kept."""
    ran: list[tuple[str, str]] = []
    clock = Clock()

    def service(path: str, **more: Any) -> Receiver:
        settings = replace(settings_of(empty_postgres, **more), secrets=())
        source = Source(path=path, secrets=(SECRETS[path],))
        receiver = Receiver(settings, sources=[source], now_ms=clock)

        @receiver.on("completed", *(["failed"] if path == "/billing" else []))
        async def handle(event: Event) -> None:
            await asyncio.sleep(0.01)
            ran.append((path, event.source))

        return receiver

    shop = service("/shop", keep_bodies=1, keep_messages=2, ask_timeout=0.05)
    billing = service("/billing", handler_concurrency=1, ask_timeout=0.05)
    async with Client(shop, SECRETS["/shop"], clock=clock) as s:
        async with Client(billing, SECRETS["/billing"]) as b:
            for n in range(10):
                await s.send({"jobId": f"order_{n}", "status": "completed"})
                await b.send({"jobId": f"bill_{n}", "status": ("failed", "completed")[n % 2]})
            await until(lambda: len(ran) == 20)
            await b.idle()
            await billing.expect("bill_99", "http://127.0.0.1:1/", by=timedelta(hours=1))
        assert set(ran) == {("/shop", "/shop"), ("/billing", "/billing")}
        assert set((await states(shop)).values()) == {"handled"}
        await s.advance(timedelta(hours=2))  # the other one is away: its affairs wait for it
        await asyncio.sleep(0.2)
        (job,) = await shop.inbox.expectations(state=None, limit=2)
        assert (job.asked, job.state) == (0, "expected")
        assert await shop.prune() == (10, 10)
        assert len(await states(shop)) == 10


async def test_what_a_process_wants_that_lives_is_pending_and_else_ignored(url: str) -> None:
    """Ten minutes by the observer's own clock, whatever the time of day does."""
    inbox = await Place(url).open()
    now_s = [0.0]
    inbox._beats = Beats(lambda: now_s[0])
    await inbox.register("other", ["/webhooks"], frozenset({("/webhooks", "failed")}), NOW_MS)
    states = []
    for n, at_s in enumerate((0, 599, 601, 602)):
        now_s[0] = at_s
        if n == 3:
            assert await inbox.renew_registration("other", NOW_MS - DAY_MS)
        await inbox.receive(message(f"job_{n}", "FAILED"))
        await inbox.receive(message(f"other_{n}", "cancelled"))
        states += [(await inbox.show(2 * n + id)).state for id in (1, 2)]  # type: ignore[union-attr]
    assert states == ["pending", "ignored"] * 2 + ["ignored"] * 2 + ["pending", "ignored"]
    await inbox.close()


async def test_what_is_wanted_by_none_for_a_day_is_ignored_with_that_reason(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not what is wanted, nor what waits for less; it is counted, and can be replayed."""
    clock = Clock()
    caplog.set_level("WARNING", "receiver")

    def fails(event: Event) -> None:
        raise RuntimeError

    async with Client(
        receiver_of(url, fails, "failed", clock=clock), SECRET, clock=clock
    ) as client:
        await client.send({"jobId": "a", "status": "failed"})
        await client.idle()
    receiver = receiver_of(url, nothing, clock=clock)
    async with Client(receiver, SECRET, clock=clock) as client:
        sweeper = receiver._opened.sweeper
        clock.advance(timedelta(hours=23))
        receiver.inbox._beats._monotonic = lambda: 1e9
        await sweeper.sweep()
        receiver.inbox._beats._monotonic = lambda: 2e9  # nobody has been seen for long
        await sweeper.sweep()
        assert await states(receiver) == {"a": "pending"}
        clock.advance(timedelta(hours=2))
        await sweeper.sweep()
        assert await states(receiver) == {"a": "ignored"}
        shown = await receiver.inbox.show(1)
        assert shown is not None
        assert "RECEIVER_UNCLAIMED" in (shown.error or "")
        assert "nobody handles it" in caplog.text
        metrics = (await client._http.get("/metrics")).text
        assert "receiver_unclaimed_total 1" in metrics.splitlines()
        assert await receiver.replay(1)


async def test_a_process_with_a_new_status_is_told_what_was_ignored(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And the command that hands it over: it replays that status of that source alone."""
    clock = Clock()
    caplog.set_level("WARNING", "receiver")
    async with Client(receiver_of(url, nothing, clock=clock), SECRET, clock=clock) as client:
        for n, status in enumerate(("failed", "error", "running", "cancelled")):
            await client.send({"jobId": f"job_{n}", "status": status})
        assert set((await states(client.receiver)).values()) == {"ignored"}
    assert "ignored before" not in caplog.text
    ran: list[str] = []
    receiver = receiver_of(
        url, lambda event: ran.append(event.job_id), "failed", "completed", clock=clock
    )
    async with Client(receiver, SECRET, clock=clock) as client:
        await until(lambda: "ignored before" in caplog.text)
        (told,) = [r for r in caplog.records if "ignored before" in r.getMessage()]
        assert "receiver inbox replay --ignored --source /webhooks --job-status failed" in str(
            told.__dict__
        )
        query = "/inbox/replay?state=ignored&source=/webhooks&jobStatus=failed"
        answer = await client._http.post(query, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.json() == {"replayed": 2}
        await client.idle()
    assert sorted(ran) == ["job_0", "job_1"]
    caplog.clear()
    async with Client(receiver_of(url, nothing, "*", clock=clock), SECRET, clock=clock):
        await until(lambda: "running" in str([r.__dict__ for r in caplog.records]))


async def test_a_claim_finds_its_own_behind_any_backlog_of_others(url: str) -> None:
    """In order of time, however much of what others want waits before it."""
    inbox = await Place(url).open()
    for n in range(300):
        await inbox.receive(message(f"other_{n}", "running", has_handler=True))
        if n % 100 == 0:
            await inbox.receive(message(f"ours_{n}", "failed", has_handler=True))
            await inbox.receive(message(f"own_{n}", "completed", has_handler=True))
    ours = frozenset({("/webhooks", "failed"), ("/webhooks", "completed"), ("/none", "failed")})
    batch = await inbox.claim(now_ms=NOW_MS, limit=4, wanted=ours)
    assert [one.job_id for one in batch.claimed] == ["ours_0", "own_0", "ours_100", "own_100"]
    batch = await inbox.claim(now_ms=NOW_MS, limit=4, wanted=ours)
    assert [one.job_id for one in batch.claimed] == ["ours_200", "own_200"]
    assert (await inbox.claim(now_ms=NOW_MS, limit=4, wanted=frozenset())).claimed == []
    await inbox.close()


async def test_what_an_earlier_version_left_waiting_is_claimed(url: str) -> None:
    """It is sorted in slices after the start, by today's rule book."""
    ran: list[str] = []
    inbox = await Place(url).open()
    for n in range(wanted.SLICE_ROWS + 1):
        await inbox.receive(message(f"job_{n}", "SUCCEEDED", has_handler=True))
    await inbox._write(lambda tx: tx.run("UPDATE messages SET canonical = NULL"))
    await inbox.close()
    receiver = receiver_of(url, lambda event: ran.append(event.job_id), "completed")
    async with Client(receiver, SECRET):
        await until(lambda: len(ran) == wanted.SLICE_ROWS + 1)


async def test_what_an_earlier_version_left_running_is_claimed(url: str) -> None:
    """At once when it is taken back."""
    inbox = await Place(url).open()
    await inbox.receive(message("job_1", "SUCCEEDED", has_handler=True))
    await inbox.claim(now_ms=NOW_MS, limit=1)
    await inbox._write(lambda tx: tx.run("UPDATE messages SET canonical = NULL"))
    assert await inbox.recover(now_ms=NOW_MS, attempts_max=9) == 1
    ours = frozenset({("/webhooks", "completed")})
    assert len((await inbox.claim(now_ms=NOW_MS, limit=1, wanted=ours)).claimed) == 1
    await inbox.close()


async def test_a_process_whose_registration_is_gone_registers_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may have forgotten it while it was frozen."""
    monkeypatch.setattr("receiver.registration.RENEW_S", 0.02)
    receiver = receiver_of(url, nothing, "*")
    async with receiver:
        await receiver.inbox._write(lambda tx: tx.run("DELETE FROM handlers"))

        async def registered() -> bool:
            return bool(
                await receiver.inbox._read(lambda tx: tx.all("SELECT 1 FROM handlers LIMIT 1"))
            )

        await until(registered)
