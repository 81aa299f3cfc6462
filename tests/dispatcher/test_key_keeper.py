"""key_keeper.py: last uses are recorded off the path, once a minute; ends are told in advance."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from dispatcher.key_keeper import SLICE, KeyKeeper
from dispatcher.keys import Limits
from dispatcher.store.errors import StoreUnavailable
from dispatcher.values import Key, KeyUse
from tests.dispatcher.store.builders import DAY_MS, T0


@dataclass
class Rig:
    """What a keeper sees of access and store, with clocks that are set by hand."""

    keys_: list[Key] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    recorded: list[KeyUse] = field(default_factory=list)
    writes: int = 0
    down: bool = False
    now_ms: int = T0

    def __post_init__(self) -> None:
        self.keeper = KeyKeeper(
            self,  # type: ignore[arg-type]  # all that it uses
            self,  # type: ignore[arg-type]
            clock=lambda: self.now_ms,
            monotonic_ms=lambda: self.now_ms - T0,
        )

    def keys(self, tenant: str | None) -> Sequence[Key]:
        return self.keys_

    def take_used(self) -> set[str]:
        taken, self.marks = self.marks, set()
        return taken

    async def mark_used(self, uses: Sequence[KeyUse]) -> None:
        self.writes += 1
        if self.down:
            raise StoreUnavailable("down")
        self.recorded += uses

    async def step(self, *marks: str, after_ms: int = 0) -> bool:
        self.now_ms += after_ms
        self.marks |= set(marks)
        return await self.keeper.step()


async def test_a_busy_key_is_recorded_once_a_minute() -> None:
    """And another one in between; nothing is written where nothing was used."""
    rig = Rig()
    for second in range(0, 121, 5):
        await rig.step("key_1", *(["key_2"] if second == 20 else []), after_ms=5_000)
    of_one = [use.used_ms for use in rig.recorded if use.key == "key_1"]
    assert of_one == [T0 + 5_000, T0 + 65_000, T0 + 125_000]
    assert len(rig.recorded) == rig.writes == 4
    for _ in range(20):
        await rig.step(after_ms=5_000)
    assert rig.writes == 4
    assert rig.keeper._recorded_ms == {}  # what is over is not kept


async def test_the_last_use_within_a_minute_is_recorded_after_it() -> None:
    rig = Rig()
    await rig.step("key_1")
    await rig.step("key_1", after_ms=30_000)
    assert [use.used_ms for use in rig.recorded] == [T0]
    await rig.step(after_ms=30_000)
    assert [use.used_ms for use in rig.recorded] == [T0, T0 + 30_000]


async def test_a_use_by_the_text_before_counts_for_both() -> None:
    rig = Rig()
    await rig.step("key_1 previous")
    await rig.step("key_1", after_ms=60_000)
    assert rig.recorded == [
        KeyUse(key="key_1", used_ms=T0, previous_used_ms=T0),
        KeyUse(key="key_1", used_ms=T0 + 60_000, previous_used_ms=None),
    ]


async def test_what_could_not_be_recorded_is_recorded_later() -> None:
    rig = Rig(down=True)
    with pytest.raises(StoreUnavailable):
        await rig.step("key_1")
    rig.down = False
    await rig.step(after_ms=5_000)
    assert [use.used_ms for use in rig.recorded] == [T0]


async def test_many_are_recorded_in_slices_and_the_end_records_the_rest() -> None:
    """I7; the key of the settings has no row, and so no record."""
    rig = Rig()
    assert await rig.step("", *(f"key_{n}" for n in range(SLICE + 1)))
    assert len(rig.recorded) == SLICE
    assert not await rig.step()
    assert len(rig.recorded) == SLICE + 1
    rig.marks = {"", "key_0", "key_new"}
    await rig.keeper.finish()
    assert {use.key for use in rig.recorded[SLICE + 1 :]} == {"key_0", "key_new"}


def ending(id: str, ends_ms: int | None) -> Key:
    return Key(
        id=id,
        digest=b"x" * 32,
        tenant=None,
        scopes=frozenset({"read"}),
        label=f"label of {id}",
        created_ms=T0,
        limits=Limits(expires_ms=ends_ms),
    )


async def test_a_key_that_ends_within_a_week_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """And again with another end; those that have none, have ended, or end later are not."""
    soon = ending("key_soon", T0 + 7 * DAY_MS)
    rig = Rig(
        keys_=[soon, ending("key_1", None), ending("key_2", T0), ending("key_3", T0 + 8 * DAY_MS)]
    )

    def told() -> list[str]:
        lines = [record.__dict__["fields"]["keyId"] for record in caplog.records]
        caplog.clear()
        return lines

    with caplog.at_level(logging.WARNING, "dispatcher"):
        await rig.step()
        assert told() == ["key_soon"]
        await rig.step(after_ms=2 * 3_600_000)
        assert told() == []
        rig.keys_[0] = replace(soon, limits=Limits(expires_ms=T0 + 6 * DAY_MS))
        await rig.step(after_ms=1_000)
        assert told() == []  # it looks once an hour
        await rig.step(after_ms=3_600_000)
        assert told() == ["key_soon"]
        await rig.step(after_ms=DAY_MS)
        assert told() == ["key_3"]
