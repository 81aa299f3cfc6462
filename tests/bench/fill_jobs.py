"""Fills a database with jobs while no dispatcher runs: `python -m tests.bench.fill_jobs HELD URL`.

HELD jobs wait at a paused endpoint; another one, of the benchmark itself, calls URL. The
environment holds the settings.
"""

import asyncio
import sys
from typing import Final

from dispatcher import settings as settings_module
from dispatcher.access import DEFAULT_TENANT, Access
from dispatcher.gateway.intake import JobSubmission, new_job
from dispatcher.jobs.endpoint import Endpoint, EndpointRules
from dispatcher.store import open_store
from receiver.base.clock import now_ms
from tests.bench.jobs import ENDPOINT, HELD, PLACES, JobSubmits

_AT_ONCE: Final = 4_096
_FIRST_NUMBER: Final = 1 << 60  # far from the numbers of the benchmark itself
_SPARE: Final = 1_000
_NEVER: Final = "http://127.0.0.1:9/never"


async def fill(held: int, url: str) -> None:
    """Open, store, close."""
    settings = settings_module.load()
    store = open_store(settings)
    await store.open()
    try:
        await Access(store, settings).bootstrap()
        busy = EndpointRules(url=url, concurrency=PLACES)
        room = held + _SPARE
        rules = EndpointRules(url=_NEVER, queue_max=room, queue_max_tenant=room)
        for name, its in ((ENDPOINT, busy), (HELD, rules)):
            at_ms = now_ms()
            made = Endpoint(name=name, rules=its, text="", created_ms=at_ms, updated_ms=at_ms)
            await store.jobs.put_endpoint(made, create=True, now_ms=at_ms)
        await store.jobs.set_paused(HELD, paused=True, now_ms=now_ms())
        for start in range(0, held, _AT_ONCE):
            numbers = range(start, min(held, start + _AT_ONCE))
            news = (
                new_job(_submission(n), DEFAULT_TENANT, rules, settings, now_ms()) for n in numbers
            )
            await asyncio.gather(*(store.jobs.submit(new) for new in news))
    finally:
        await store.close()


def _submission(number: int) -> JobSubmission:
    body = JobSubmits.body(_FIRST_NUMBER + number)
    return JobSubmission(endpoint=HELD, body=body, content_type="application/json")


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1]), sys.argv[2]))
