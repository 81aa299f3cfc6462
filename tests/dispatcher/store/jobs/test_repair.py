"""What queues and endpoints show, compared with their jobs and repaired: nothing is found but what
somebody else has broken."""

from typing import Any

import pytest

from dispatcher.store.jobs import repair
from tests.dispatcher.store.jobs.builders import EP, Jobs


async def broken(jobs: Jobs, sql: str) -> None:
    await jobs.store._write(lambda tx: tx.run(sql))


async def repaired(jobs: Jobs, *, limit: int = 2) -> int:
    """How much disagreed, over all queues."""
    after: str | None = ""
    total = 0
    while after is not None:
        found, after = await jobs.store.repair(after=after, limit=limit)
        total += found
    return total


async def shown(jobs: Jobs) -> list[Any]:
    def look(tx: Any) -> list[Any]:
        return [
            tx.all(
                "SELECT id, queued, ready_high, ready_normal, ready_low FROM queues ORDER BY id"
            ),
            tx.all("SELECT endpoint, queued, ready_ms FROM endpoint_load ORDER BY endpoint"),
        ]

    return await jobs.store._write(look)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE queues SET queued = queued + 3 WHERE tenant = 'acme'",
        "UPDATE queues SET ready_normal = NULL",
        "UPDATE queues SET ready_low = 5",
        "UPDATE endpoint_load SET queued = 0",
        "UPDATE endpoint_load SET ready_ms = NULL",
        "UPDATE endpoint_load SET ready_ms = 77 WHERE endpoint = 'ep'",
        "UPDATE endpoint_load SET queued = 9, ready_ms = 8",
    ],
)
async def test_what_disagrees_with_its_jobs_is_found_and_repaired(jobs: Jobs, sql: str) -> None:
    await jobs.endpoint(concurrency=3)
    await jobs.endpoint("other", concurrency=1)
    for tenant, at in (("acme", EP), ("b", EP), ("acme", "other")):
        for priority in ("high", "normal"):
            await jobs.submit(tenant=tenant, at=at, priority=priority)
    await jobs.claim(2)
    before = await shown(jobs)
    assert await repaired(jobs) == 0
    await broken(jobs, sql)
    assert await shown(jobs) != before
    assert await repaired(jobs) >= 1
    assert await shown(jobs) == before
    assert await repaired(jobs) == 0


async def test_very_many_are_not_counted_for_it(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a queue shows more than so many is enough; one that shows less is counted."""
    monkeypatch.setattr(repair, "_COUNTED_MAX", 2)
    monkeypatch.setattr(repair, "_QUEUES", repair._QUEUES.replace("LIMIT 10001", "LIMIT 3"))
    await jobs.endpoint()
    await jobs.many(4)
    await broken(jobs, "UPDATE queues SET queued = 3")
    await broken(jobs, "UPDATE endpoint_load SET queued = 3")
    assert await repaired(jobs) == 0
    await broken(jobs, "UPDATE queues SET queued = 1")
    assert await repaired(jobs) >= 1
    assert (await jobs.store.load(EP)).queued == 4
