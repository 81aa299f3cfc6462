"""Who may look up a name next (receiver/base/places.py), and what is remembered of names."""

import pytest

from dispatcher.sending.remembered import Known, Remembered
from receiver.base.places import Places, domain_of


def started(places: Places[str]) -> list[str]:
    """What gets a place now, in order."""
    found = []
    while (given := places.next()) is not None:
        found.append(given[2])
    return found


def fill(places: Places[str], tenant: str, domain: str, count: int) -> list[str]:
    """What starts of so many look-ups; the rest waits."""
    for n in range(count):
        places.add(tenant, domain, f"{tenant}{n}.{domain}")
    return started(places)


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("a.b.example.com.", "example.com"),
        ("shop.example.co.uk", "example.co.uk"),
        ("shop.example.com.au", "example.com.au"),
        ("deep.example.io", "example.io"),
        ("localhost", "localhost"),
    ],
)
def test_a_domain_is_what_one_owner_runs_name_servers_for(host: str, domain: str) -> None:
    assert domain_of(host) == domain


def test_i6_a_tenant_whose_look_ups_hang_leaves_places_for_whoever_comes() -> None:
    places: Places[str] = Places(128)
    hung = fill(places, "a", "hang.test", 400)
    assert 32 < len(hung) <= 96

    assert len(fill(places, "b", "well.test", 10)) == 10
    assert len(fill(places, "c", "well.test", 10)) >= 1


def test_i6_a_domain_whose_look_ups_hang_leaves_places_for_its_tenants_others() -> None:
    places: Places[str] = Places(128)
    fill(places, "a", "hang.test", 400)

    assert fill(places, "a", "well.test", 4) == [f"a{n}.well.test" for n in range(4)]


def test_tenants_that_all_hang_still_leave_some_for_those_who_have_none() -> None:
    places: Places[str] = Places(128)
    for n in range(20):
        fill(places, f"hostile{n}", "hang.test", 400)

    assert len(fill(places, "newcomer", "well.test", 1)) == 1


def test_there_are_never_more_than_there_may_be() -> None:
    places: Places[str] = Places(8)
    for n in range(50):
        fill(places, f"tenant{n}", "hang.test", 10)

    assert places.taken == 8


def test_with_one_place_tenants_take_turns() -> None:
    places: Places[str] = Places(1)
    order = fill(places, "a", "x.test", 3)
    for tenant in ("b", "b", "c"):
        places.add(tenant, "y.test", tenant)
    for _ in range(5):
        places.give_back(order[-1][0], "x.test" if "x.test" in order[-1] else "y.test")
        order += started(places)

    assert order == ["a0.x.test", "a1.x.test", "b", "c", "a2.x.test", "b"]


def test_what_no_longer_waits_gets_no_place() -> None:
    places: Places[str] = Places(1)
    fill(places, "a", "x.test", 2)
    places.remove("a", "x.test", "a1.x.test")
    places.remove("a", "x.test", "a1.x.test")
    places.give_back("a", "x.test")

    assert places.next() is None
    assert places.taken == 0


def test_i7_a_tenants_names_push_out_its_own_and_no_other_tenants() -> None:
    remembered = Remembered(hosts_max=4)
    known = Known(fresh_until=10, until=20, addresses=("192.0.2.1",))
    remembered.put("kept.test", known, "b")
    for n in range(10):
        remembered.put(f"{n}.test", known, "a")

    assert remembered.get("kept.test", 0) is known
    assert [n for n in range(10) if remembered.get(f"{n}.test", 0)] == [7, 8, 9]


def test_what_is_past_its_time_is_forgotten() -> None:
    remembered = Remembered()
    remembered.put("a.test", Known(fresh_until=10, until=20, addresses=("192.0.2.1",)), "a")

    assert remembered.get("a.test", 19) is not None
    assert remembered.get("a.test", 20) is None
