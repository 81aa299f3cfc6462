"""Services that run a job with a long output through all that can become of it, and die without any
warning at a named step: of storing it, of linking it, of letting go of it, of deleting it.

Reads a line of JSON for each (`Life`), and makes it by a fork, since to import all of it takes
longer than it lives. Writes `exit CODE` for each.
"""

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dispatcher.blobs.bucket import Bucket, ObjectWriter
from dispatcher.blobs.folder import FileWriter, Folder
from dispatcher.blobs.tables import RowWriter, Tables
from dispatcher.store.jobs.store import JobStore
from receiver.base import settings as bounds
from receiver.base.clock import now_ms
from tests.dispatcher.crash.job_serve import _end_with_parent
from tests.dispatcher.gateway.rig import TENANT, World, running

LEASE_S: Final = 1.2
WEEK_MS: Final = 8 * 86_400_000
_Owner = type[Any]
# Each step by its name: whose it is. Of a life all are taken, most of them several times.
STEPS: Final[dict[str, tuple[_Owner, ...]]] = {
    "begin_blob": (JobStore,),
    "write": (FileWriter, RowWriter, ObjectWriter),
    "finish": (FileWriter, RowWriter, ObjectWriter),
    "settle": (JobStore,),
    "loosen_blob": (JobStore,),
    "prune": (JobStore,),
    "delete": (Folder, Tables, Bucket),
    "forget_blobs": (JobStore,),
}
POINTS: Final = [f"{when} {step}" for step in STEPS for when in ("before", "after")]


@dataclass(frozen=True, kw_only=True)
class Life:
    """Of a service on a database; it dies the `count`-th time that it comes to a point."""

    database: str
    upstream: str
    point: str
    count: int
    settings: dict[str, Any] = field(default_factory=dict)


def arm(point: str, count: int) -> None:
    """Have this process die there."""
    left = count

    def touch(at: str) -> None:
        nonlocal left
        if at == point:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    for name, owners in STEPS.items():
        for owner in owners:
            setattr(owner, name, _watched(getattr(owner, name), name, touch))


def _watched(
    step: Callable[..., Awaitable[Any]], name: str, touch: Callable[[str], None]
) -> Callable[..., Awaitable[Any]]:
    async def watched(*given: Any, **named: Any) -> Any:
        touch(f"before {name}")
        result = await step(*given, **named)
        touch(f"after {name}")
        return result

    return watched


def short_leases() -> None:
    """Have leases of a second be taken, which nobody may choose."""
    vars(bounds)["check_bounds"] = lambda *_: None


async def live(life: Life) -> None:
    """Run a job, run it again, have one be cancelled with half of its output there, and let all of
    it be past its time."""
    arm(life.point, life.count)
    short_leases()
    async with running(life.database, job_lease=LEASE_S, **life.settings) as world:
        await _run(world)


async def _run(world: World) -> None:
    store, blobs = world.service.store.jobs, world.service.gateway.blobs
    job = await world.submit()
    await world.until_state(job.id, "completed", "failed")
    await store.retry(TENANT, job.id, force=True, now_ms=now_ms())
    await world.until_state(job.id, "completed", "failed")
    failing = await world.submit(body=b"break off")
    await world.until_state(failing.id, "completed", "failed")
    while await blobs.sweep():
        pass
    while await store.prune(now_ms=now_ms() + WEEK_MS, limit=10):
        pass
    while await blobs.sweep():
        pass


def main() -> None:
    """Make one after another, as long as somebody asks."""
    for line in sys.stdin:
        life = Life(**json.loads(line))
        pid = os.fork()
        if not pid:
            _end_with_parent()
            code = 1
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                asyncio.run(live(life))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(f"exit {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
