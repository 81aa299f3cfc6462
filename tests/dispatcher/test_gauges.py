"""gauges.py: what a scrape tells of the database, and what it costs."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dispatcher.app import Service
from dispatcher.gauges import KEPT_MS, Gauges
from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.figures import DeliveryFigures, DestinationFigures
from dispatcher.store.store import Store
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, submit

BILLING: Final = DestinationFigures(
    id="dst_1", name="billing", waiting=7, due_since_ms=4_000, reasons=frozenset({"circuit"})
)
FIGURES: Final = DeliveryFigures(
    now_ms=10_000,
    due=3,
    due_since_ms=8_500,
    held={"circuit": 2},
    replays=1,
    replays_left=9,
    destinations=[BILLING],
)


class FakeStore:
    """Answers with what it is given, or raises it; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: DeliveryFigures | Exception = FIGURES
        self.go_on = asyncio.Event()
        self.go_on.set()

    def states(self) -> Mapping[str, int]:
        return {"pending": 4, "dead": 2}

    async def figures(self, *, destinations_max: int) -> DeliveryFigures:
        self.asked += 1
        await self.go_on.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Rig:
    """Gauges on a store that is asked, with a clock that the test moves."""

    def __init__(self) -> None:
        self.store, self.metrics, self.at_ms = FakeStore(), Metrics(), 0
        self.gauges = Gauges(
            cast(Store, self.store),
            self.metrics,
            destinations_max=10,
            monotonic_ms=lambda: self.at_ms,
        )

    def values(self) -> dict[str, float]:
        """Every sample, by its name with its labels."""
        return {
            f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
            for family in text_string_to_metric_families(self.metrics.render().decode())
            for sample in family.samples
        }


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_a_scrape_tells_what_waits_how_long_and_what_is_held(rig: Rig) -> None:
    await rig.gauges.look()
    values = rig.values()

    assert values["dispatcher_due"] == 3
    assert values["dispatcher_due_seconds"] == 1.5
    assert values["dispatcher_callbacks[('state', 'dead')]"] == 2
    assert values["dispatcher_destinations_held[('reason', 'circuit')]"] == 2
    assert values["dispatcher_destinations_held[('reason', 'paused')]"] == 0
    assert values["dispatcher_replays_running"] == 1
    assert values["dispatcher_replays_left"] == 9


async def test_a_registered_destination_has_series_of_its_own(rig: Rig) -> None:
    """By its id; its name is for the platform alone."""
    await rig.gauges.look()
    values, one = rig.values(), "('destination', 'dst_1')"

    assert "billing" not in rig.metrics.render().decode()
    told = rig.gauges.names().decode()
    assert 'dispatcher_destination_info{destination="dst_1",name="billing"} 1.0' in told
    assert values[f"dispatcher_destination_waiting[{one}]"] == 7
    assert values[f"dispatcher_destination_due_seconds[{one}]"] == 6
    assert values[f"dispatcher_destination_held[{one}, ('reason', 'circuit')]"] == 1


async def test_the_database_is_asked_once_in_a_few_seconds_whoever_asks(rig: Rig) -> None:
    """`/metrics` needs no key: a hundred who ask at once, and again, cost one look."""
    rig.store.go_on.clear()
    asking = [asyncio.create_task(rig.gauges.look()) for _ in range(100)]
    await asyncio.sleep(0)
    rig.store.go_on.set()
    await asyncio.gather(*asking)
    await rig.gauges.look()
    assert rig.store.asked == 1
    rig.at_ms += KEPT_MS
    await rig.gauges.look()
    assert rig.store.asked == 2


async def test_a_client_that_hangs_up_takes_the_look_from_nobody(rig: Rig) -> None:
    """Others wait for the same one."""
    rig.store.go_on.clear()
    first = asyncio.create_task(rig.gauges.look())
    other = asyncio.create_task(rig.gauges.look())
    await asyncio.sleep(0)
    first.cancel()
    rig.store.go_on.set()
    await other
    assert rig.values()["dispatcher_due"] == 3


async def test_a_database_that_does_not_answer_leaves_the_other_figures(rig: Rig) -> None:
    """Those that it would tell are absent, not old and not 0; and they come back."""
    await rig.gauges.look()
    rig.store.answer, rig.at_ms = StoreUnavailable("it is gone"), KEPT_MS
    await rig.gauges.look()
    values = rig.values()
    assert "dispatcher_due" not in values
    assert values["dispatcher_callbacks[('state', 'dead')]"] == 2
    rig.store.answer, rig.at_ms = FIGURES, 2 * KEPT_MS
    await rig.gauges.look()
    assert rig.values()["dispatcher_due"] == 3


async def test_metrics_are_whole_over_http(tmp_path: Path) -> None:
    """A paused destination with something that waits for it shows in a scrape, without a key; and
    the attempts to one are counted under its id."""
    settings = Settings(database_url=f"sqlite:///{tmp_path}/m.db", admin_key=ADMIN_KEY)
    async with Service(settings) as service, connect(service, ADMIN_KEY) as api:
        made = await api.post(
            "/v1/destinations", json={"name": "parked", "url": "https://example.com/hook"}
        )
        await api.patch("/v1/destinations/parked", json={"paused": True})
        await submit(api, "one", "parked")
        named = (await api.get("/metrics")).text
        foreign = await make_key(api, scopes=["read"], tenant="acme")
        refused = await api.get("/metrics", headers={"Authorization": f"Bearer {foreign}"})
        wrong = await api.get("/metrics", headers={"Authorization": "Bearer pbk_wrong"})
        del api.headers["Authorization"]
        text = (await api.get("/metrics")).text

    one = f'destination="{made.json()["id"]}"'
    assert f'dispatcher_destination_held{{{one},reason="paused"}} 1.0' in text
    assert f"dispatcher_destination_waiting{{{one}}} 1.0" in text
    assert 'dispatcher_callbacks{state="pending"} 1.0' in text
    assert 'tenant="' not in text
    assert "parked" not in text
    assert f'dispatcher_destination_info{{{one},name="parked"}} 1.0' in named
    assert (refused.status_code, wrong.status_code) == (403, 401)
