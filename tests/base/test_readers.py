"""receiver/base/db/readers.py, its decisions: who reads next, who waits, who is refused."""

from receiver.base.db.readers import SERVICE, Reader, Turns


def turns(places: int = 2, *, each: int = 1, **more: int) -> Turns[str]:
    return Turns(places, each=each, **more)


def started(under_test: Turns[str]) -> list[str]:
    """What gets a place now, in order."""
    found = []
    while (given := under_test.next()) is not None:
        found.append(given[1])
    return found


def test_one_owner_has_no_more_than_its_share_though_nobody_else_waits() -> None:
    under_test = turns(4, each=2)
    for n in range(5):
        under_test.add("a", f"a{n}")

    assert started(under_test) == ["a0", "a1"]
    assert under_test.waiting == 3


def test_i6_whoever_comes_next_finds_a_place_beside_a_flood() -> None:
    under_test = turns()
    for n in range(150):
        under_test.add("flood", f"flood{n}")
    assert started(under_test) == ["flood0"]
    under_test.add("b", "b0")

    assert started(under_test) == ["b0"]


def test_owners_take_turns_and_each_is_served_in_the_order_it_came() -> None:
    under_test = turns(1)
    for owner in ("a", "a", "a", "b", "b", "c"):
        under_test.add(owner, f"{owner}{under_test.waiting}")
    order = []
    while under_test.waiting:
        order += started(under_test)
        under_test.give_back(order[-1][0])

    assert order == ["a0", "b3", "c5", "a1", "b4", "a2"]


def test_who_has_fewer_places_goes_first() -> None:
    under_test = turns(3, each=2)
    for item in ("a0", "a1", "a2"):
        under_test.add("a", item)
    under_test.add("b", "b0")
    assert started(under_test) == ["a0", "b0", "a1"]
    under_test.add("b", "b1")
    under_test.give_back("b")

    assert started(under_test) == ["b1"]


def test_one_more_than_an_owner_may_have_waiting_is_refused_and_nobody_else() -> None:
    under_test = turns(waiting_each_max=3)
    refused = [under_test.add("a", f"a{n}") for n in range(5)]

    assert refused == [None, None, None, "a3", "a4"]
    assert under_test.add("b", "b0") is None


def test_where_all_that_may_wait_do_the_last_of_the_longest_queue_makes_room() -> None:
    under_test = turns(waiting_max=4, waiting_each_max=3)
    for item in ("a0", "a1", "a2"):
        under_test.add("a", item)
    under_test.add("b", "b0")

    assert under_test.add("c", "c0") == "a2"
    assert under_test.waiting == 4
    assert started(under_test) == ["a0", "b0"]


def test_what_was_let_go_of_gets_no_place() -> None:
    under_test = turns(1)
    for item in ("a0", "a1"):
        under_test.add("a", item)

    assert under_test.remove("a", "a0")
    assert not under_test.remove("a", "a0")
    assert started(under_test) == ["a1"]
    assert under_test.waiting == 0


def test_the_service_goes_first_and_keeps_a_place_beside_its_work_for_owners() -> None:
    under_test = turns(2, each=2, reserved=1)
    for item in ("a0", "a1"):
        under_test.add("a", item)
    assert started(under_test) == ["a0"]
    under_test.add(None, "own0")
    under_test.add(None, "own1")
    assert started(under_test) == ["own0"]
    under_test.give_back("a")

    assert started(under_test) == ["own1"]


def test_what_is_read_for_nobody_or_as_upkeep_is_the_services_own() -> None:
    assert SERVICE.is_service
    assert Reader("a", upkeep=True).is_service
    assert not Reader("a").is_service
