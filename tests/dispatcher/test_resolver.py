"""resolver.py: bounded in number, in time and per host; remembers for a while."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher.sending.resolver import Addresses, Resolver, look_up


class Names:
    """A system resolver that answers, fails or hangs as told, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hanging = threading.Semaphore(0)
        self.released = threading.Event()
        self._threads: list[threading.Thread] = []

    def __call__(self, host: str) -> Addresses:
        self.asked.append(host)
        self._threads.append(threading.current_thread())
        if host.startswith("hung"):
            self.hanging.release()
            self.released.wait()
        if host.startswith("unknown"):
            raise OSError("no such host")
        return () if host.startswith("empty") else ("192.0.2.1", "2001:db8::1")

    async def hang(self, count: int) -> None:
        """Wait until so many look-ups hang."""
        for _ in range(count):
            await asyncio.to_thread(self.hanging.acquire)

    async def release(self) -> None:
        """Let every look-up end, and wait until the loop knows it."""
        self.released.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.sleep(0)


@pytest.fixture
def names() -> Iterator[Names]:
    names = Names()
    yield names
    names.released.set()


def resolver(names: Callable[[str], Addresses], **changes: Any) -> Resolver:
    settings: dict[str, Any] = {"timeout_s": 5.0, "lookups_max": 4, "cache_s": 30.0}
    return Resolver(look_up=names, **settings | changes)


async def test_a_name_has_its_addresses_of_both_families(names: Names) -> None:
    found = await resolver(names).resolve("example.com", 443)

    assert [(result["host"], result["port"]) for result in found] == [
        ("192.0.2.1", 443),
        ("2001:db8::1", 443),
    ]


@pytest.mark.parametrize(
    ("host", "reason"), [("unknown.example", "no such host"), ("empty.example", "no address")]
)
async def test_a_failed_look_up_is_an_os_error_with_its_reason(
    names: Names, host: str, reason: str
) -> None:
    with pytest.raises(OSError, match=reason):
        await resolver(names).resolve(host)


async def test_answers_and_failures_are_remembered(names: Names) -> None:
    under_test = resolver(names)
    for _ in range(3):
        await under_test.resolve("example.com")
        with pytest.raises(OSError, match="no such host"):
            await under_test.resolve("unknown.example")

    assert sorted(names.asked) == ["example.com", "unknown.example"]


async def test_a_cache_of_zero_seconds_remembers_nothing(names: Names) -> None:
    under_test = resolver(names, cache_s=0)
    for _ in range(2):
        await under_test.resolve("example.com")

    assert names.asked == ["example.com"] * 2


async def test_what_was_remembered_expires(names: Names) -> None:
    under_test = resolver(names, cache_s=0.05)
    await under_test.resolve("example.com")
    ends = asyncio.get_running_loop().time() + 0.05
    while asyncio.get_running_loop().time() <= ends:
        await under_test.resolve("example.com")
    await under_test.resolve("example.com")

    assert len(names.asked) >= 2


async def test_many_that_ask_for_one_host_share_one_look_up(names: Names) -> None:
    under_test = resolver(names)
    asking = [asyncio.create_task(under_test.resolve("hung.example")) for _ in range(50)]
    await names.hang(1)
    names.released.set()
    answers = await asyncio.gather(*asking)

    assert names.asked == ["hung.example"]
    assert all(len(answer) == 2 for answer in answers)


async def test_one_that_stops_waiting_does_not_take_the_answer_from_the_others(
    names: Names,
) -> None:
    under_test = resolver(names)
    first = asyncio.create_task(under_test.resolve("hung.example"))
    second = asyncio.create_task(under_test.resolve("hung.example"))
    await names.hang(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    names.released.set()

    assert len(await second) == 2


async def test_a_hung_look_up_ends_in_time_and_then_fails_at_once(names: Names) -> None:
    under_test = resolver(names, timeout_s=0.1)
    with pytest.raises(OSError, match=r"longer than 0\.1 s"):
        await under_test.resolve("hung.example")
    with pytest.raises(OSError, match="still hangs"):
        await under_test.resolve("hung.example")

    assert names.asked == ["hung.example"]  # one thread, however often it is asked for


async def test_i6_hung_hosts_hold_no_other_back(names: Names) -> None:
    under_test = resolver(names)
    hung = [asyncio.create_task(under_test.resolve(f"hung{n}.example")) for n in range(3)]
    await names.hang(3)
    for n in range(20):
        assert len(await under_test.resolve(f"healthy{n}.example")) == 2
    names.released.set()
    await asyncio.gather(*hung)


async def test_new_hosts_fail_at_once_when_every_place_is_held_by_a_hung_one(names: Names) -> None:
    under_test = resolver(names, timeout_s=0.1)
    hung = [asyncio.create_task(under_test.resolve(f"hung{n}.example")) for n in range(4)]
    await asyncio.gather(*hung, return_exceptions=True)
    with pytest.raises(OSError, match="all 4 name look-ups hang"):
        await under_test.resolve("healthy.example")


async def test_it_recovers_when_hung_look_ups_end(names: Names) -> None:
    under_test = resolver(names, timeout_s=0.1, lookups_max=1)
    with pytest.raises(OSError, match="longer than"):
        await under_test.resolve("hung.example")
    with pytest.raises(OSError, match="name look-ups hang"):
        await under_test.resolve("healthy.example")
    await names.release()

    assert len(await under_test.resolve("healthy.example")) == 2


async def test_a_burst_of_new_hosts_waits_for_its_turn(names: Names) -> None:
    """More hosts than places is no error while look-ups end."""
    under_test = resolver(names)
    hosts = [f"host{n}.example" for n in range(40)]
    answers = await asyncio.gather(*(under_test.resolve(host) for host in hosts))

    assert all(len(answer) == 2 for answer in answers)
    assert sorted(names.asked) == sorted(hosts)


async def test_those_that_wait_for_a_place_keep_their_deadline(names: Names) -> None:
    under_test = resolver(names, timeout_s=0.2, lookups_max=1)
    hung = asyncio.create_task(under_test.resolve("hung.example"))
    await names.hang(1)
    with pytest.raises(OSError, match="longer than"):
        await under_test.resolve("waiting.example")
    await asyncio.gather(hung, return_exceptions=True)
    await names.release()

    assert len(await under_test.resolve("next.example")) == 2
    assert "waiting.example" not in names.asked  # nobody waited for it any more


async def test_i7_at_most_so_many_addresses_of_a_name_are_tried() -> None:
    many = tuple(f"192.0.2.{n}" for n in range(200))
    assert len(await resolver(lambda _: many).resolve("many.example")) == 8


async def test_a_closed_resolver_answers_nobody_and_hangs_nobody(names: Names) -> None:
    under_test = resolver(names)
    asking = asyncio.create_task(under_test.resolve("hung.example"))
    await names.hang(1)
    await under_test.close()
    with pytest.raises(OSError, match="closed"):
        await asking
    with pytest.raises(OSError, match="closed"):
        await under_test.resolve("example.com")


def test_the_systems_resolver_reads_addresses_and_refuses_what_is_no_name() -> None:
    assert look_up("127.0.0.1") == ("127.0.0.1",)
    with pytest.raises(OSError, match="not a host name"):
        look_up("a" * 64 + ".example")
