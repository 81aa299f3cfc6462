"""One request on its way through the API: who asks, about what, and how its body is read; and the
pages of what is listed."""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from dispatcher import audit, wire
from dispatcher.access import Access, Principal
from dispatcher.api import json
from dispatcher.api.manner import OURS, Manner
from dispatcher.audit import Entry
from dispatcher.engine.engine import Engine
from dispatcher.engine.slots import Probes
from dispatcher.gateway.figures import FigureBook
from dispatcher.gateway.gateway import Gateway
from dispatcher.gateway.intake import JobIntake
from dispatcher.gauges import Gauges
from dispatcher.intake import Intake
from dispatcher.metrics import Metrics
from dispatcher.quotas import Quotas
from dispatcher.settings import Settings
from dispatcher.signing import SecretCache
from dispatcher.store.store import Store
from receiver.base.clock import now_ms
from receiver.base.http import Bodies, Request, invalid, number

T = TypeVar("T")

# Batches of one tenant of which lines are submitted at once: enough to fill commits.
TENANT_BATCHES_MAX: Final = 2
# Exports of one tenant that are read at once: each holds a page of entries.
TENANT_EXPORTS_MAX: Final = 2
# Test callbacks that run at once, each for as long as its policy's timeout: as many as an operator
# may start in a hurry for one tenant, and four times that, so that silent ones leave room.
TENANT_PROBES_MAX: Final = 16
PROBES_MAX: Final = 64
# Beside a payload: the rest of a submit, or a whole request about something else.
JSON_BYTES_MAX: Final = 64 * 1024
LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 500
_MARK_BYTES: Final = 6
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")  # an id of ours, or a tenant's name


class Batches:
    """The batches whose lines are submitted now, or the exports that are read: a few of each
    tenant, in turn, since a hundred at once would let no other request between."""

    def __init__(self, tenant_max: int) -> None:
        self._tenant_max = tenant_max
        self._tenants: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, tenant: str) -> asyncio.Semaphore:
        """Return what a batch of this tenant holds while some of its lines are submitted."""
        turn = self._tenants.get(tenant)
        if turn is None:
            self._tenants[tenant] = turn = asyncio.Semaphore(self._tenant_max)
        return turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything the routes use. `clock` gives milliseconds; `probes` bounds the test callbacks
    that run at once, since they take no slots."""

    settings: Settings
    store: Store
    access: Access
    intake: Intake
    engine: Engine
    secrets: SecretCache
    quotas: Quotas
    gateway: Gateway
    job_intake: JobIntake
    figures: FigureBook
    wake_replayer: Callable[[], None]
    wake_job_sweeper: Callable[[], None]
    wake_eraser: Callable[[], None]
    wake_resealer: Callable[[], None]
    metrics: Metrics
    gauges: Gauges
    clock: Callable[[], int] = now_ms
    batches: Batches = field(default_factory=lambda: Batches(TENANT_BATCHES_MAX))
    exports: Batches = field(default_factory=lambda: Batches(TENANT_EXPORTS_MAX))
    probes: Probes = field(default_factory=lambda: Probes(PROBES_MAX, TENANT_PROBES_MAX))


@dataclass(slots=True, kw_only=True)
class Call:
    """One authenticated request. `principal`, `tenant` and `query` are unset on public routes;
    `reason` is why it asks, where it says so of a change that is audited; `manner` is the
    dialect's that it speaks. `is_new_tenant`: there is none of this name yet."""

    context: Context
    request: Request = field(repr=False)
    bodies: Bodies = field(repr=False)
    path: Mapping[str, str]
    manner: Manner = OURS
    principal: Principal = field(init=False)
    tenant: str = field(init=False)
    query: dict[str, str] = field(init=False)
    reason: str | None = field(init=False, default=None)
    is_new_tenant: bool = field(init=False, default=False)

    @property
    def now_ms(self) -> int:
        """The time by the service's clock."""
        return self.context.clock()

    @property
    def address(self) -> str:
        """The address that asks; empty where that is not known."""
        return self.request.address

    @property
    def scheme(self) -> str:
        """What the client speaks, `http` or `https`: behind a trusted proxy, as that one says."""
        return self.request.scheme

    def entry(
        self, action: str, target: str | None = None, *, tenant: str | None = "", **detail: Any
    ) -> Entry:
        """Return the audit trail's entry of what this request does to `target`, for the verb that
        does it. `tenant` is the request's own unless it is given; None is the platform."""
        return audit.new_entry(
            action,
            at_ms=self.now_ms,
            actor=self.principal.key_id,
            address=self.address or None,
            by_platform=self.principal.tenant is None,
            tenant=self.tenant if tenant == "" else tenant,
            target=target,
            detail=detail,
            reason=self.reason,
        )

    def require_reason(self, what: str) -> None:
        """Raise Refusal (422) where the request does not say why."""
        if self.reason is None:
            raise invalid("Postback-Reason", None, f"is required where {what}")

    async def body(self, bytes_max: int) -> bytes:
        """Return the request's body, which the tenant holds until the response is there. Raises
        what `Request.body` raises."""
        request, bodies = self.request, self.bodies
        request.check_encoding()
        body = request.whole_body(bytes_max, bodies)
        if body is not None:
            return body
        timeout_s = self.context.settings.request_timeout
        try:
            return await request.body(bytes_max=bytes_max, timeout_s=timeout_s, bodies=bodies)
        except BaseException:
            bodies.give_back(request)  # what is still sent is thrown away
            raise

    async def json(self, shape: type[T], bytes_max: int = JSON_BYTES_MAX) -> T:
        """Return the request's JSON body in this shape. Raises Refusal."""
        self.request.check_media_type((json.JSON,))
        raw = await self.body(bytes_max)
        depth_max = self.context.settings.json_depth_max
        return json.decode(json.decoder(shape), raw, depth_max=depth_max)

    async def json_if_any(self, shape: type[T], bytes_max: int = JSON_BYTES_MAX) -> T | None:
        """Return the request's JSON body in this shape; None where it has none. Raises Refusal."""
        raw = await self.body(bytes_max)
        if not raw:
            return None
        self.request.check_media_type((json.JSON,))
        depth_max = self.context.settings.json_depth_max
        return json.decode(json.decoder(shape), raw, depth_max=depth_max)

    def header(self, name: bytes) -> str | None:
        """Return a request header as text."""
        return self.request.header(name)

    def headers(self, name: bytes) -> str | None:
        """Return a request header of which there may be several, joined by commas."""
        first = self.header(name)
        if first is None:
            return None
        values = [value for other, value in self.request.headers if other == name]
        return first if len(values) == 1 else b",".join(values).decode("latin-1")

    def listing(self, about: str, *, limit: int = LIMIT_DEFAULT) -> "Listing":
        """Return what the request's `limit`, if any, and `cursor` say. Raises Refusal (422)."""
        limit = number(self.query, "limit", max=LIMIT_MAX) or limit
        return Listing(about, limit, after(self.query.get("cursor"), about))


@dataclass(frozen=True, slots=True)
class Listing:
    """Which part of a listing is requested. `about` names the tenant, the listing and its filter:
    a cursor is good for that one only. `after` is the id that the page follows, if any."""

    about: str
    limit: int
    after: str | None

    def page(self, data: Sequence[T], next_id: str | None) -> wire.Page[T]:
        """Return a page that the store cut; `next_id` is its last one, where more follow."""
        return wire.Page(data=list(data), next_cursor=cursor_after(next_id, self.about))

    def page_of(self, entries: Mapping[str, T]) -> wire.Page[T]:
        """Return a page of entries that are all at hand, in the order of their names."""
        names = sorted(name for name in entries if self.after is None or name > self.after)
        next_id = names[self.limit - 1] if len(names) > self.limit else None
        return self.page([entries[name] for name in names[: self.limit]], next_id)


def cursor_after(next_id: str | None, about: str) -> str | None:
    """Return the opaque cursor for what follows `next_id` in a listing."""
    if next_id is None:
        return None
    return base64.urlsafe_b64encode(_mark(next_id, about) + next_id.encode()).decode().rstrip("=")


def after(text: str | None, about: str, *, field: str = "cursor") -> str | None:
    """Return the id that a cursor, the parameter `field`, holds. Raises Refusal (422) for one that
    we did not make, or made for another listing."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        next_id = raw[_MARK_BYTES:].decode("ascii")
    except (binascii.Error, ValueError):
        raw, next_id = b"", ""
    if not _ID.fullmatch(next_id) or raw[:_MARK_BYTES] != _mark(next_id, about):
        raise invalid(field, text, "not a cursor of this listing; start again without it")
    return next_id


def _mark(next_id: str, about: str) -> bytes:
    return sha256(f"{about}\0{next_id}".encode()).digest()[:_MARK_BYTES]
