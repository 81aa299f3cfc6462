"""throttle.py: long things give way to what others commit."""

import asyncio
from dataclasses import dataclass, field

from dispatcher.blobs.throttle import Throttle

PATIENCE_S = 20.0


@dataclass
class Disk:
    """Writes when it is told to, and notes what was asked of it."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    asked: list[bool] = field(default_factory=list)
    commits: int = 0
    now_s: float = 1_000.0

    async def write(self, synced: bool) -> None:
        self.asked.append(synced)
        async with self.changed:
            self.changed.notify_all()
        await self.go.wait()

    async def until_asked(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(lambda: len(self.asked) >= count)


async def test_while_nobody_commits_all_go_at_once() -> None:
    """Nothing is held back, nor synced a part at a time, where it is in nobody's way."""
    disk = Disk()
    throttle = Throttle(lambda: disk.commits, clock=lambda: disk.now_s)
    going = [asyncio.create_task(throttle.write(disk.write)) for _ in range(5)]
    await disk.until_asked(5)
    disk.go.set()
    await asyncio.gather(*going)
    assert disk.asked == [False] * 5


async def test_while_others_commit_one_goes_after_another() -> None:
    """A part at a time is on its way to the disk, and is there before the next one begins."""
    disk = Disk()
    throttle = Throttle(lambda: disk.commits, clock=lambda: disk.now_s)
    disk.commits, disk.now_s = 1_000_000, disk.now_s + 1
    going = [asyncio.create_task(throttle.write(disk.write)) for _ in range(3)]
    await disk.until_asked(1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert disk.asked == [True]
    disk.go.set()
    await asyncio.wait_for(asyncio.gather(*going), PATIENCE_S)
    assert disk.asked == [True] * 3
    disk.now_s += 1
    await throttle.write(disk.write)
    assert disk.asked[3:] == [False], "nobody committed since"


async def test_what_fails_lets_the_next_one_go() -> None:
    """An error is its own writer's, and nobody else's."""
    disk = Disk()
    throttle = Throttle(lambda: disk.commits, clock=lambda: disk.now_s)
    disk.commits, disk.now_s = 1_000_000, disk.now_s + 1

    async def fails(_synced: bool) -> None:
        raise OSError("the disk is full")

    failing = asyncio.create_task(throttle.write(fails))
    disk.go.set()
    await asyncio.wait_for(throttle.write(disk.write), PATIENCE_S)
    assert isinstance(failing.exception(), OSError)
    assert disk.asked == [True]
