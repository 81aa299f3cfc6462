"""What the parts share: the options, the sink, the cores, the databases and the jobs' numbers."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import figures, process
from tests.bench.closed import ClosedLoop, Window
from tests.bench.machine import Cores
from tests.bench.options import Options
from tests.bench.payload import Submits
from tests.bench.process import Dispatcher
from tests.bench.sink import Sink

if TYPE_CHECKING:  # its driver is an extra, which SQLite alone does not need
    from tests.bench.databases import Postgres

DESTINATIONS: Final = 16  # unless a part says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of the benchmark. `numbers` never gives the same job twice."""

    options: Options
    sink: Sink
    cores: Cores
    directory: Path
    numbers: Iterator[int]
    postgres: "Postgres | None" = None

    def running(
        self,
        name: str,
        store: str,
        *,
        cores: Collection[int] | None = None,
        log_name: str | None = None,
        **settings: object,
    ) -> AbstractAsyncContextManager[Dispatcher]:
        """A dispatcher on the database of this name, on its own core unless others are given."""
        return process.running(
            self.database_url(name, store),
            self.directory / f"{log_name or name}-{store}.log",
            store=store,
            cores=self.cores.dispatcher if cores is None else cores,
            **self.options.settings,
            **settings,
        )

    def database_url(self, name: str, store: str) -> str:
        """Where this store keeps the database of this name."""
        if store != "postgres":
            return f"sqlite:///{self.directory / name}-{store}.db"
        if self.postgres is None:
            raise RuntimeError("there is no PostgreSQL in this run")
        return self.postgres.url(name)

    def submits(self, dispatcher: Dispatcher, urls: Sequence[str] | None = None) -> Submits:
        """Submits to this dispatcher, for the usual destinations or these."""
        return Submits(dispatcher.url, self.sink.urls(DESTINATIONS) if urls is None else urls)

    def server_cpu_s(self, store: str) -> float | None:
        """CPU time that the store's server used so far, where it has one."""
        return self.postgres.cpu_s() if self.postgres and store == "postgres" else None

    async def saturate(self, *dispatchers: Dispatcher, others: bool = False) -> Window:
        """One round at saturation, spread over dispatchers of one store; CPU is that of all. With
        `others`, they also have deliveries that were not submitted in it."""
        loop = ClosedLoop(
            [self.submits(dispatcher) for dispatcher in dispatchers],
            self.sink,
            self.numbers,
            in_flight=self.options.in_flight,
        )
        return await loop.measure(
            lambda: figures.total(dispatcher.cpu_s() for dispatcher in dispatchers),
            server_cpu_s=lambda: self.server_cpu_s(dispatchers[0].store),
            warm_up_s=self.options.warm_up,
            seconds=self.options.seconds,
            others=others,
        )
