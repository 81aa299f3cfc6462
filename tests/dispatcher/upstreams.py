"""Open upstreams on loopback, and calls of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from dispatcher.jobs.endpoint import EndpointRules, LocalRef
from dispatcher.jobs.values import ClaimedJob, JobOptions
from dispatcher.sending.request import UpstreamCall
from dispatcher.sending.upstream import Upstreams
from dispatcher.settings import Settings
from dispatcher.signing import Secrets
from dispatcher.values import SecretRef
from receiver.base.clock import now_ms
from receiver.base.lack import OwnLack

JOB_ID = "0190f3a1b2c37d4e85f60718293a4b5c"
_RULES = {field for field in EndpointRules.__dataclass_fields__ if field != "url"}


async def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds, for a few seconds at most."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def no_values(ref: SecretRef | LocalRef) -> str:
    """There are none."""
    raise OwnLack("stored_secrets", f"no value of {ref.name}")


@asynccontextmanager
async def calling(
    resolve: Callable[[SecretRef | LocalRef], Any] = no_values,
    *,
    lookup: Callable[[str], Any] | None = None,
    tls: Any = None,
    output_bytes_max: int = 64 * 2**20,
    connect_s: float = 30.0,
    **settings: Any,
) -> AsyncIterator[Upstreams]:
    """Open upstreams."""
    extra: dict[str, Any] = {} if lookup is None else {"lookup": lookup}
    upstreams = Upstreams(
        Settings(**settings),
        resolve,
        tls=tls,
        output_bytes_max=output_bytes_max,
        connect_s=connect_s,
        **extra,
    )
    await upstreams.open()
    try:
        yield upstreams
    finally:
        await upstreams.close()


def claimed(**changes: Any) -> ClaimedJob:
    """A job that has just been claimed."""
    fields: dict[str, Any] = {
        "id": JOB_ID,
        "tenant": "default",
        "endpoint": "ep",
        "dialect": "v1",
        "priority": "normal",
        "run": 1,
        "claim": 1,
        "calls": 0,
        "tries": 0,
        "turned_away": 0,
        "interruptions": 0,
        "body": b'{"prompt":  "a"}',
        "content_type": "application/json",
        "options": JobOptions(),
        "created_ms": 0,
        "queued_ms": 0,
        "started_ms": 0,
        "claimed_ms": 0,
        "ends_ms": None,
        "expires_ms": 2**53,
    }
    return ClaimedJob(**fields | changes)


def call(
    url: str,
    *,
    limit_s: float = 10.0,
    once: bool = False,
    secrets: Secrets | None = None,
    options: JobOptions | None = None,
    **changes: Any,
) -> UpstreamCall:
    """A call of `url`; fields of its rules and of its job by name."""
    rules = EndpointRules(
        url=url,
        delivery="at-most-once" if once else "at-least-once",
        **{"output_max": 2**20}
        | {name: value for name, value in changes.items() if name in _RULES and name != "body"}
        | ({"body": changes.pop("mode")} if "mode" in changes else {}),
    )
    job = claimed(
        **{name: value for name, value in changes.items() if name not in _RULES or name == "body"}
    )
    if options is not None:
        job = replace(job, options=options)
    return UpstreamCall(
        job=job, rules=rules, deadline_ms=now_ms() + round(limit_s * 1000), secrets=secrets
    )
