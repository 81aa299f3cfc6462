"""Work that nobody waits for goes in slices between everyone else's commits."""

import pytest

from receiver.base.slices import BEHIND_S, ENDLESS_ROWS_MIN, ROWS_MIN, Slices

ROWS_MAX = 200


class Writer:
    """A writer whose slices take `row_s` a row, and who commits `others` beside each."""

    def __init__(self, *, row_s: float, others: int, endless: bool = False) -> None:
        self.row_s = row_s
        self.others = others
        self.now_s = 100.0
        self.committed = 7
        self.rows: list[int] = []
        self.rests: list[float] = []
        self.slices = Slices(
            lambda: self.committed,
            rows_max=ROWS_MAX,
            endless=endless,
            clock_s=lambda: self.now_s,
            sleep=self.sleep,
        )

    async def slice(self, rows: int) -> str:
        self.rows.append(rows)
        self.now_s += rows * self.row_s
        self.committed += 1 + self.others
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now_s += seconds

    async def work(self, slices: int) -> None:
        for _ in range(slices):
            assert await self.slices.do(self.slice) == "done"
            await self.slices.rest()


async def test_while_others_commit_slices_are_short_and_leave_them_most_of_the_time() -> None:
    writer = Writer(row_s=0.000_02, others=1)
    await writer.work(200)
    assert min(writer.rows) >= ROWS_MIN
    assert max(writer.rows) * writer.row_s < 0.0025
    worked_s = sum(writer.rows) * writer.row_s
    assert len(writer.rests) == 200
    assert sum(writer.rests) >= 3 * worked_s


async def test_slices_that_take_long_become_no_shorter_than_so_few_rows() -> None:
    writer = Writer(row_s=0.001, others=5)
    await writer.work(20)
    assert set(writer.rows) == {ROWS_MIN}
    assert max(writer.rests) < 0.1, "and still they follow each other"


async def test_what_never_ends_goes_in_slices_that_keep_up_with_it() -> None:
    """However long they take."""
    writer = Writer(row_s=0.001, others=5, endless=True)
    await writer.work(20)
    assert set(writer.rows) == {ENDLESS_ROWS_MIN}


async def test_what_falls_behind_takes_half_of_the_time_until_nothing_is_left() -> None:
    writer = Writer(row_s=0.000_05, others=5, endless=True)
    began_s = writer.now_s
    while writer.now_s - began_s < BEHIND_S:
        await writer.work(1)
    assert set(writer.rows) == {ENDLESS_ROWS_MIN}
    await writer.work(10)
    assert writer.rows[-1] == ROWS_MAX
    assert writer.rests[-1] == pytest.approx(ROWS_MAX * writer.row_s)
    writer.slices.end()
    await writer.work(3)
    assert writer.rows[-1] == ENDLESS_ROWS_MIN
    assert writer.rests[-1] > 3 * ENDLESS_ROWS_MIN * writer.row_s


async def test_what_ends_leaves_room_however_long_it_takes() -> None:
    writer = Writer(row_s=0.000_05, others=5)
    await writer.work(5_000)
    assert writer.now_s > 100 + 2 * BEHIND_S
    assert max(writer.rows) * writer.row_s < 0.0025


async def test_where_nobody_else_commits_slices_are_long_and_follow_at_once() -> None:
    writer = Writer(row_s=0.000_02, others=0)
    await writer.work(500)
    assert writer.rows[-1] == ROWS_MAX
    rests = len(writer.rests)
    await writer.work(10)
    assert writer.rows[-10:] == [ROWS_MAX] * 10
    assert len(writer.rests) == rests


async def test_who_comes_while_slices_are_long_finds_them_short_again() -> None:
    writer = Writer(row_s=0.000_02, others=0)
    await writer.work(500)
    writer.others = 1
    await writer.work(5)
    assert writer.rows[-1] * writer.row_s < 0.0025
    assert len(writer.rests) >= 5


async def test_what_was_committed_between_two_slices_counts_as_others_work() -> None:
    writer = Writer(row_s=0.000_02, others=0)
    await writer.work(500)
    rests = len(writer.rests)
    writer.committed += 1
    await writer.work(1)
    assert len(writer.rests) == rests + 1
