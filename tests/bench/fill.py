"""Fills a database while no dispatcher runs: `python -m tests.bench.fill HELD DUE SINK_URL`.

HELD deliveries wait for a paused destination; DUE is the number of one more that nothing holds
(negative: none). The environment holds the settings.
"""

import asyncio
import sys
from typing import Final

from dispatcher import settings as settings_module
from dispatcher.access import DEFAULT_TENANT, Access, new_secret
from dispatcher.ids import destination_id
from dispatcher.intake import Submission, new_callback
from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.store import Store
from dispatcher.values import Destination, NewCallback
from receiver.base.clock import now_ms
from tests.bench.payload import job_id, payload

_NAME: Final = "held"
_AT_ONCE: Final = 4_096
_FIRST_NUMBER: Final = 1 << 60  # far from the numbers of the benchmark itself


async def fill(held: int, due: int, sink_url: str) -> None:
    """Open, store, close."""
    settings = settings_module.load()
    store = open_store(settings)
    await store.open()
    try:
        await Access(store, settings).bootstrap()
        if held:
            await _hold(store, f"{sink_url}/{_NAME}")
        for start in range(0, held, _AT_ONCE):
            numbers = range(start, min(held, start + _AT_ONCE))
            news = [_new(_FIRST_NUMBER + n, None, settings) for n in numbers]
            await asyncio.gather(*(store.submit(new, handover=False) for new in news))
        if due >= 0:
            await store.submit(_new(due, f"{sink_url}/ok/000", settings), handover=False)
    finally:
        await store.close()


async def _hold(store: Store, url: str) -> None:
    at_ms = now_ms()
    destination = Destination(
        id=destination_id(DEFAULT_TENANT, name=_NAME),
        tenant=DEFAULT_TENANT,
        name=_NAME,
        url=url,
        policy=None,
        headers=(),
        paused=False,
        disabled_reason=None,
        concurrency=None,
        rate_per_second=None,
        created_ms=at_ms,
    )
    secret = new_secret(DEFAULT_TENANT, at_ms, destination=destination.id)
    made = await store.register(destination, secret)
    await store.change_destination(DEFAULT_TENANT, made.id, {"paused": True}, now_ms=at_ms)


def _new(number: int, url: str | None, settings: Settings) -> NewCallback:
    given = Submission(
        job_id=job_id(number),
        body=payload(number),
        callback_url=url,
        destination=_NAME if url is None else None,
        job_status="completed",
    )
    return new_callback(given, DEFAULT_TENANT, settings, now_ms())


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
