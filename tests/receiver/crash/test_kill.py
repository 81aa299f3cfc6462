"""kill -9 between every pair of steps: with `tx` one effect, without it at least one."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

import pytest

from receiver.inbox.postgres.database import SCHEMA
from tests.dispatcher.postgres.server import database
from tests.receiver.crash import customer
from tests.receiver.crash.customer import ENDS_WITHIN_S, POINTS, Case, Kind, connect

AT_ONCE = 4

# A process of its own for each run, from one that has imported everything already. LATE
# is what a run would import by itself.
LATE = ("pytest", "httpcore", "anyio._backends._asyncio")
PROCESSES = multiprocessing.get_context("forkserver")
# A process that is started looks how all others ended, and an exit code can be read only once.
CODES = Lock()
PROCESSES.set_forkserver_preload([customer.__name__, "receiver.handling.effects.postgres", *LATE])


def make(folder: Path, point: str, kind: Kind, stores: str, url: str | None) -> Case:
    """A case that finds its databases empty."""
    folder.mkdir()
    inbox, shop = f"sqlite:///{folder}/inbox.db", f"sqlite:///{folder}/shop.db"
    if url is not None:
        inbox, shop = (url if "inbox" in stores else inbox), url
    armed = folder / "armed"
    armed.touch()
    with closing(connect(shop)) as db:
        if url is not None:
            db.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            db.execute("DROP TABLE IF EXISTS effects, postback_handled")
        db.execute("CREATE TABLE effects (job TEXT)")
    return Case(point=point, kind=kind, inbox_url=inbox, shop_url=shop, armed=armed)


@pytest.fixture
def urls(stores: str) -> Iterator[list[str | None]]:
    """A database for each of the cases that run side by side."""
    with ExitStack() as stack:
        on_postgres = stores != "SQLite"
        yield [stack.enter_context(database()) if on_postgres else None for _ in range(AT_ONCE)]


def run(case: Case) -> int | None:
    process = PROCESSES.Process(target=customer.main, args=(case,))
    with CODES:
        process.start()
    wait([process.sentinel], 2 * ENDS_WITHIN_S)
    with CODES:
        code = process.exitcode
        process.kill()
        process.join()
        process.close()
    return code


def effects_after_kill(case: Case) -> int:
    """How often the effect is in the customer's table once all is over."""
    assert run(case) == -signal.SIGKILL, f"not killed {case.point}"
    assert run(case) == 0
    schema = f"{SCHEMA}." if case.inbox_url == case.shop_url else ""
    with closing(connect(case.shop_url)) as db:
        (effects,) = db.execute("SELECT count(*) FROM effects").fetchone()
    with closing(connect(case.inbox_url)) as db:
        states = db.execute(f"SELECT state FROM {schema}messages").fetchall()
    assert states == [("handled",)]
    return int(effects)


@pytest.mark.parametrize(
    ("stores", "kinds"),
    [
        ("SQLite", ("tx", "plain")),
        ("effects on PostgreSQL", ("tx",)),  # without tx it makes no difference
        ("inbox and effects on PostgreSQL", ("tx", "plain")),
    ],
)
def test_kill_9_between_every_pair_of_steps(
    tmp_path: Path, stores: str, kinds: tuple[Kind, ...], urls: list[str | None]
) -> None:
    """The table of what came of it is printed (`pytest -s`)."""
    cases = [(point, kind) for point in POINTS for kind in kinds]
    free: SimpleQueue[str | None] = SimpleQueue()
    for url in urls:
        free.put(url)

    def effects(n: int) -> int:
        url = free.get()
        try:
            return effects_after_kill(make(tmp_path / str(n), *cases[n], stores, url))
        finally:
            free.put(url)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(cases, pool.map(effects, range(len(cases))), strict=True))
    print(f"\n{f'killed ({stores})':48}" + "".join(f"{kind:>8}" for kind in kinds))
    for point in POINTS:
        print(f"{point:48}" + "".join(f"{found[point, kind]:>8}" for kind in kinds))
    expected: dict[Kind, set[int]] = {"tx": {1}, "plain": {1, 2}}
    for wanted in kinds:
        assert {count for (_, kind), count in found.items() if kind == wanted} == expected[wanted]
