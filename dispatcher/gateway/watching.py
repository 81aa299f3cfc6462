"""Looking after upstreams: those with a health check are asked how they are, and nothing is started
there while they ail; wake hooks are told when work comes. One process does it for all."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.jobs import kinds, waking
from dispatcher.jobs.endpoint import Endpoint, EndpointLoad, EndpointRules, HealthCheck, Wake
from dispatcher.jobs.estimates import wanted
from dispatcher.metrics import Metrics
from dispatcher.sending.asking import Reply
from dispatcher.signing import Secrets
from dispatcher.store.errors import NotFound, StoreError
from dispatcher.store.jobs.store import JobStore
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms

_LOG: Final = log.get("dispatcher.gateway")
_LOOK_S: Final = 0.5
_ASK_EVERY_MS: Final = 5_000  # whether it is for this process to do
_TELL_S: Final = 10.0
_TELL_AGAIN_MS: Final = 5_000  # where nobody heard
_DETAIL_CHARS: Final = 200


class Asking(Protocol):
    """Asks and tells (`sending.upstream.Upstreams`). Neither raises what its peer could cause."""

    async def look(self, rules: EndpointRules, check: HealthCheck, *, limit_s: float) -> Reply:
        """Ask an upstream how it is."""

    async def tell(
        self, url: str, said: dict[str, Any], secrets: Secrets | None, *, limit_s: float
    ) -> Reply:
        """Tell somebody beside an upstream something of it."""


@dataclass(slots=True)
class _Known:
    """What is known of one endpoint here."""

    rules: EndpointRules
    next_ms: int = 0  # when it is asked next
    failures: int = 0  # in a row
    woken_ms: int | None = None  # when its hook was called last; None while it has nothing to do
    doing: set["asyncio.Task[None]"] = field(default_factory=set)
    asking: bool = False
    telling: bool = False


class Watching:
    """Runs until it is stopped. `secrets` gives what is told is signed with; `shared`: there may be
    other processes on the database."""

    def __init__(
        self,
        store: JobStore,
        asking: Asking,
        book: EndpointBook,
        secrets: Callable[[Endpoint], Awaitable[Secrets]],
        metrics: Metrics,
        *,
        shared: bool,
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._store = store
        self._asking = asking
        self._book = book
        self._secrets = secrets
        self._metrics = metrics
        self._shared = shared
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._known: dict[str, _Known] = {}
        self._ours_until_ms: int | None = None
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._running = asyncio.create_task(self._run(), name="watch-upstreams")

    async def stop(self) -> None:
        """Stop, whatever is under way."""
        tasks = {task for known in self._known.values() for task in known.doing}
        if self._running is not None:
            tasks.add(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self) -> None:
        while True:
            try:
                await self.step()
            except StoreError as error:
                _LOG.warning("cannot look after upstreams yet", reason=str(error))
            except Exception as error:
                _LOG.exception("looking after upstreams failed", error)
            await asyncio.sleep(_LOOK_S)

    async def step(self) -> None:
        """Begin what is due now. Raises what the database does."""
        watched = {
            one.name: one
            for one in self._book.all()
            if one.unopened is None
            and (one.rules.wake is not None or kinds.health_check(one.rules) is not None)
        }
        for name in self._known.keys() - watched.keys():
            self._forget(name)
        if not watched or not await self._is_ours():
            return
        loads = {one.endpoint: one for one in await self._store.loads(now_ms=self._clock())}
        for name, endpoint in watched.items():
            load = loads.get(name)
            if load is not None:
                self._look_at(endpoint, load)

    async def _is_ours(self) -> bool:
        """Whether this is the process that looks after upstreams. Two that do for a moment do no
        harm."""
        if not self._shared:
            return True
        at_ms = self._monotonic_ms()
        if self._ours_until_ms is None or at_ms >= self._ours_until_ms:
            if not await self._store.watches_upstreams():
                self._ours_until_ms = None
                return False
            self._ours_until_ms = at_ms + _ASK_EVERY_MS
        return True

    def _forget(self, name: str) -> None:
        for task in self._known.pop(name).doing:
            task.cancel()

    def _look_at(self, endpoint: Endpoint, load: EndpointLoad) -> None:
        known = self._known.get(endpoint.name)
        if known is None or known.rules != endpoint.rules:
            woken_ms = None if known is None else known.woken_ms
            if known is not None:
                self._forget(endpoint.name)
            known = self._known[endpoint.name] = _Known(endpoint.rules, woken_ms=woken_ms)
        check, wake = kinds.health_check(endpoint.rules), endpoint.rules.wake
        at_ms = self._monotonic_ms()
        if check is not None and not known.asking and at_ms >= known.next_ms:
            known.next_ms, known.asking = at_ms + round(check.every * 1000), True
            self._begin(known, self._check(endpoint, check, known, load))
        if wake is None:
            return
        if not waking.is_at_work(load):
            known.woken_ms = None
        elif not known.telling and waking.due(load, wake, known.woken_ms, at_ms=at_ms):
            known.telling = True
            self._begin(known, self._wake(endpoint, wake, known, load))

    def _begin(self, known: _Known, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        known.doing.add(task)
        task.add_done_callback(known.doing.discard)

    # --- health ---

    async def _check(
        self, endpoint: Endpoint, check: HealthCheck, known: _Known, load: EndpointLoad
    ) -> None:
        try:
            reply = await self._asking.look(endpoint.rules, check, limit_s=check.timeout)
            ailment = reply.fault
            if reply.status_code is not None:
                ailment = kinds.ails(endpoint.rules.kind, reply.status_code, reply.body)
            self._metrics.health_checked(endpoint.name, well=ailment is None)
            known.failures = 0 if ailment is None else known.failures + 1
            if ailment is None and load.unhealthy_ms is not None:
                await self._note(endpoint.name, None)
            elif known.failures >= check.failures and load.unhealthy_ms is None:
                await self._note(endpoint.name, ailment)
        except StoreError as error:
            _LOG.warning("cannot note how an upstream is yet", reason=str(error))
        except Exception as error:
            _LOG.exception("a health check failed", error, endpoint=endpoint.name)
        finally:
            known.asking = False

    async def _note(self, name: str, ailment: str | None) -> None:
        news = await self._store.set_health(name, well=ailment is None, now_ms=self._clock())
        if news and ailment is None:
            _LOG.info("an upstream is well again: its jobs go on", endpoint=name)
        elif news:
            _LOG.warning(
                "an upstream is not well: its jobs wait",
                endpoint=name,
                reason=(ailment or "")[:_DETAIL_CHARS],
            )

    # --- waking ---

    async def _wake(
        self, endpoint: Endpoint, wake: Wake, known: _Known, load: EndpointLoad
    ) -> None:
        try:
            said = {
                "queued": load.queued,
                "running": load.running + load.releasing,
                "wanted": wanted(load.queued, load.running, load.releasing),
            }
            secrets = await self._secrets(endpoint)
            told = {"endpoint": endpoint.name, **said}
            reply = await self._asking.tell(wake.url, told, secrets, limit_s=_TELL_S)
            self._metrics.woken(endpoint.name, well=reply.is_well)
            at_ms, every_ms = self._monotonic_ms(), round(wake.every * 1000)
            if reply.is_well:
                _LOG.info("a wake hook was called", endpoint=endpoint.name, **said)
            else:
                reason = reply.fault or f"it answered {reply.status_code}"
                _LOG.warning("a wake hook failed", endpoint=endpoint.name, reason=reason)
                at_ms -= max(0, every_ms - _TELL_AGAIN_MS)
            known.woken_ms = at_ms
        except (NotFound, StoreError) as error:
            _LOG.warning("cannot call a wake hook yet", reason=str(error))
        except Exception as error:
            _LOG.exception("calling a wake hook failed", error, endpoint=endpoint.name)
        finally:
            known.telling = False
