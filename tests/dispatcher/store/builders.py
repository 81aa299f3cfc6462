"""What the store's tests are made of: callbacks, settlements, and a store with a clock of its own.

`FACTORIES` lists the databases on which the store must keep its promises; one more adds itself.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from dispatcher.filters import Filter
from dispatcher.ids import destination_id, lane_id, new_id
from dispatcher.outcome import Kind, Outcome
from dispatcher.policy import Verdict, load
from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.database import StoreEvents
from dispatcher.store.requests import ClaimRequest, Settlement
from dispatcher.store.store import Store
from dispatcher.values import (
    Callback,
    Delivery,
    Destination,
    Headers,
    NewCallback,
    Priority,
    SigningSecret,
    Submitted,
)
from tests.dispatcher.postgres import folders

T0: Final = 1_790_000_000_000  # where each test's clock starts: a time in 2026
DAY_MS: Final = 86_400_000
LEASE_MS: Final = 25_000  # the default policy's timeout and the default margin
PLENTY: Final = 1 << 40
SERVER: Final = "http://127.0.0.1:9"
URL: Final = f"{SERVER}/hook"
TENANT: Final = "acme"

Make = Callable[[Path, dict[str, Any]], Store]


def sqlite_store(folder: Path, changes: dict[str, Any]) -> Store:
    """The SQLite store on a real file."""
    return open_store(Settings(database_url=f"sqlite:///{folder}/postback.db", **changes))


def postgres_store(folder: Path, changes: dict[str, Any]) -> Store:
    """The PostgreSQL store on a database of the folder's own."""
    return open_store(Settings(database_url=folders.url_for(folder, used=True), **changes))


def postgres_look(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the database as another program sees them."""
    return folders.watcher(folder).execute(sql.encode()).fetchall()


def sqlite_look(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the database as another program sees them."""
    connection = sqlite3.connect(f"file:{folder}/postback.db?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


FACTORIES: Final[dict[str, Make]] = {"sqlite": sqlite_store, "postgres": postgres_store}
LOOKERS: Final[dict[str, Callable[[Path, str], list[tuple[Any, ...]]]]] = {
    "sqlite": sqlite_look,
    "postgres": postgres_look,
}
# Where those stores look at a clock: to show which holds are over, for rates, and for leases.
CLOCKS: Final = ("dispatcher.store.store.wall_ms", "dispatcher.store.store.monotonic_ms")


def secret(
    tenant: str = TENANT, *, destination: str | None = None, now_ms: int = T0
) -> SigningSecret:
    return SigningSecret(
        id=new_id("ss", now_ms),
        tenant=tenant,
        destination=destination,
        value="test-secret-" + new_id("x", now_ms),
        created_ms=now_ms,
        expires_ms=None,
    )


def callback(
    job: str = "job-1",
    *,
    tenant: str = TENANT,
    url: str = URL,
    name: str | None = None,
    body: bytes = b'{"status":"completed"}',
    key: str | None = None,
    now_ms: int = T0,
    priority: Priority = "normal",
    job_status: str | None = "completed",
    tags: dict[str, str] | None = None,
    policy: str | None = None,
    headers: Headers = (),
    run: int | None = None,
    not_before_ms: int | None = None,
) -> NewCallback:
    """A submit as the API builds it; `key` is an explicit idempotency key."""
    where = destination_id(tenant, name=name, url=url)
    natural = f"job\0{tenant}\0{job}\0{job_status}\0{name or url}"
    digest = sha256(body).digest()
    return NewCallback(
        id=new_id("cb", now_ms),
        tenant=tenant,
        job_id=job,
        job_status=job_status,
        priority=priority,
        destination=where,
        lane=where if name else lane_id(tenant, url),
        destination_name=name,
        url=None if name else url,
        body=body,
        body_sha256=digest,
        content_type="application/json",
        headers=headers,
        tags=tuple((tags or {}).items()),
        policy_text=policy,
        policy=None if policy is None else load(policy),
        key=sha256((natural if key is None else f"key\0{tenant}\0{key}").encode()).digest()[:16],
        explicit_key=key is not None,
        content=sha256(f"{job}\0{job_status}\0{where}".encode() + digest).digest()[:16],
        created_ms=now_ms,
        run=run,
        not_before_ms=not_before_ms,
    )


def outcome(
    code: int | None = 200,
    *,
    kind: Kind = "answered",
    now_ms: int = T0,
    retry_after_ms: int | None = None,
) -> Outcome:
    return Outcome(
        kind=kind,
        started_ms=now_ms,
        duration_ms=1.5,
        connected=kind not in ("unreachable", "tls_error"),
        status_code=code if kind == "answered" else None,
        error=None if code and code < 300 else f"answered {code}",
        excerpt="ok",
        retry_after_ms=retry_after_ms,
    )


Ending = Literal["delivered", "pending", "dead"]


@dataclass(slots=True)
class World:
    """An open store and its clock, which only the test moves."""

    make: Callable[[], Store]
    store: Store
    now_ms: int = T0
    ready: list[int | None] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)  # how many operations each held
    on_access: Callable[[], None] = lambda: None
    jobs_ready: list[int | None] = field(default_factory=list)
    jobs_ended: list[str] = field(default_factory=list)
    endpoints_changed: int = 0

    async def open(self) -> None:
        await self.store.open(
            StoreEvents(
                on_ready=self.ready.append,
                on_commit=lambda operations, _seconds: self.commits.append(operations),
                on_access=self.on_access,
                on_jobs_ready=self.jobs_ready.append,
                on_jobs_ended=self.jobs_ended.extend,
                on_endpoints=self.on_endpoints,
            )
        )

    def on_endpoints(self) -> None:
        self.endpoints_changed += 1

    async def reopen(self) -> None:
        """As after a restart of the process."""
        await self.store.close()
        self.store = self.make()
        await self.open()

    def tick(self, ms: int = 1) -> int:
        self.now_ms += ms
        return self.now_ms

    def let_leases_go(self) -> int:
        """After a crash, the time when a successor may have what was leased: a sole owner at once,
        one of several when the leases have ended."""
        return self.tick(LEASE_MS if self.store.shared else 1)

    def next_ready_ms(self) -> int | None:
        """What the last commit said of the next due work."""
        return self.ready[-1]

    # --- the path of a delivery ---

    async def submit(self, job: str = "job-1", *, handover: bool = False, **more: Any) -> Submitted:
        return await self.store.submit(
            callback(job, **{"now_ms": self.now_ms, **more}), handover=handover
        )

    async def many(self, count: int, prefix: str = "job", **more: Any) -> list[str]:
        """Ids of `count` pending callbacks."""
        return [(await self.submit(f"{prefix}-{n}", **more)).id for n in range(count)]

    async def claim(
        self,
        slots: int = 100,
        *,
        slots_max: int = 1_000,
        bytes_free: int = PLENTY,
        bytes_max: int = PLENTY,
        **more: Any,
    ) -> list[Delivery]:
        return await self.store.claim(
            ClaimRequest(
                slots=slots,
                slots_max=slots_max,
                bytes_free=bytes_free,
                bytes_max=bytes_max,
                **{"now_ms": self.now_ms, **more},
            )
        )

    async def settle(
        self,
        delivery: Delivery,
        state: Ending = "delivered",
        *,
        code: int | None = None,
        kind: Kind = "answered",
        due_in_ms: int = 0,
        retry_after_ms: int | None = None,
        gone: bool = False,
        spent: bool = True,
    ) -> bool:
        if code is None:
            code = 200 if state == "delivered" else 404
        return await self.store.settle(
            Settlement(
                delivery=delivery,
                outcome=outcome(code, kind=kind, now_ms=self.now_ms, retry_after_ms=retry_after_ms),
                verdict=Verdict(
                    state=state,
                    due_ms=self.now_ms + due_in_ms if state == "pending" else None,
                    gone=gone,
                    spent=spent,
                ),
                random=0.5,
                now_ms=self.now_ms,
            )
        )

    async def one(self, **more: Any) -> Delivery:
        """Claim exactly one."""
        (delivery,) = await self.claim(1, **more)
        return delivery

    async def ended(self, job: str, state: Ending = "dead", **more: Any) -> str:
        """The id of a callback that came to its end; the only work that is due."""
        submitted = await self.submit(job, handover=True, **more)
        delivery = submitted.delivery or await self.one()
        assert delivery.id == submitted.id
        assert await self.settle(delivery, state)
        return submitted.id

    # --- looking ---

    async def get(self, callback_id: str, tenant: str = TENANT) -> Callback:
        return await self.store.get(tenant, callback_id)

    async def states(self, ids: Sequence[str], tenant: str = TENANT) -> list[str]:
        return [(await self.get(one, tenant)).state for one in ids]

    async def search(self, tenant: str = TENANT, **wanted: Any) -> list[str]:
        page = await self.store.search(tenant, Filter(**wanted), after=None, limit=500)
        return [found.id for found in page.callbacks]

    async def destination(self, which: str = URL, tenant: str = TENANT) -> Destination:
        return await self.store.get_destination(tenant, which)

    # --- destinations ---

    async def register(
        self, name: str, *, tenant: str = TENANT, url: str = URL, **more: Any
    ) -> Destination:
        await self.store.ensure_tenant(tenant, secret(tenant, now_ms=self.now_ms))
        new = Destination(
            id=destination_id(tenant, name=name),
            tenant=tenant,
            name=name,
            url=url,
            policy=None,
            headers=(),
            paused=False,
            disabled_reason=None,
            concurrency=None,
            rate_per_second=None,
            created_ms=self.now_ms,
        )
        own = secret(tenant, destination=new.id, now_ms=self.now_ms)
        return await self.store.register(replace(new, **more), own)

    async def change(
        self, which: str = URL, *, tenant: str = TENANT, **changes: object
    ) -> Destination:
        return await self.store.change_destination(tenant, which, changes, now_ms=self.now_ms)


async def raises(error: type[Exception], awaited: Awaitable[object]) -> Exception:
    """The exception of exactly this type that `awaited` raises."""
    with pytest.raises(error) as met:
        await awaited
    assert met.type is error
    return met.value
