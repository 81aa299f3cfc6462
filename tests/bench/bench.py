"""What the parts share: the options, the sink, the cores, a directory and the jobs' numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import databases, process
from tests.bench.closed import ClosedLoop, Window
from tests.bench.machine import Cores
from tests.bench.options import Options
from tests.bench.payload import Submits
from tests.bench.process import Dispatcher
from tests.bench.sink import Sink

DESTINATIONS: Final = 16  # unless a part says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of the benchmark. `numbers` never gives the same job twice."""

    options: Options
    sink: Sink
    cores: Cores
    directory: Path
    numbers: Iterator[int]

    def running(
        self, name: str, *, store: str = "sqlite", **settings: object
    ) -> AbstractAsyncContextManager[Dispatcher]:
        """A dispatcher on the file of this name, on its own core."""
        if store == "sqlite":
            settings = {"database_url": self.url(name), **settings}
        return process.running(
            self.database(name), store=store, core=self.cores.dispatcher, **settings
        )

    def url(self, name: str) -> str:
        """The URL of the database of this name, on the store that is measured."""
        if self.options.store == "postgres":
            return databases.url_for(self.directory / name)
        return f"sqlite:///{self.database(name)}"

    def database(self, name: str) -> Path:
        """The file of this name."""
        return self.directory / f"{name}.db"

    def submits(self, dispatcher: Dispatcher, urls: Sequence[str] | None = None) -> Submits:
        """Submits to this dispatcher, for the usual destinations or these."""
        return Submits(dispatcher.url, self.sink.urls(DESTINATIONS) if urls is None else urls)

    async def saturate(self, dispatcher: Dispatcher, *others: Dispatcher) -> Window:
        """One round at saturation; with several dispatchers, all have the same load as one."""
        loop = ClosedLoop(
            self.submits(dispatcher),
            self.sink,
            self.numbers,
            in_flight=self.options.in_flight,
            others=[self.submits(other) for other in others],
        )

        def cpu_s() -> float | None:
            found = [one.cpu_s() for one in (dispatcher, *others)]
            return None if None in found else sum(one for one in found if one is not None)

        return await loop.measure(
            cpu_s, warm_up_s=self.options.warm_up, seconds=self.options.seconds
        )
