"""resolver.py: bounded in number, in time and per host; remembers for a while."""

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher.sending.resolver import ATTEMPT, Attempt, Resolver
from receiver.base.lack import OwnLack, lack_of
from receiver.base.lookups import Addresses, look_up


class Names:
    """A system resolver that answers, fails or hangs as told, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hung_hosts: set[str] = set()
        self.hanging = threading.Semaphore(0)
        self.released = threading.Event()
        self.answers: dict[str, Addresses | OSError] = {}
        self._threads: list[threading.Thread] = []

    def __call__(self, host: str) -> Addresses:
        self.asked.append(host)
        self._threads.append(threading.current_thread())
        if host.startswith("hung") or host in self.hung_hosts:
            self.hanging.release()
            self.released.wait()
        if host.startswith("unknown"):
            raise OSError("no such host")
        if host in self.answers:
            answer = self.answers[host]
            if isinstance(answer, OSError):
                raise answer
            return answer
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
    settings: dict[str, Any] = {
        "timeout_s": 5.0,
        "lookups_max": 8,
        "cache_s": 30.0,
        "stale_s": 600.0,
    }
    return Resolver(look_up=names, **settings | changes)


async def resolving(under_test: Resolver, host: str, asker: Attempt | str) -> list[Any]:
    """What a tenant's attempt is told; in a task of its own, if the test goes on with another's."""
    ATTEMPT.set(Attempt(asker) if isinstance(asker, str) else asker)
    found: list[Any] = await under_test.resolve(host)
    return found


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


async def test_i6_hung_hosts_of_one_tenant_hold_no_other_tenant_back(names: Names) -> None:
    """Nor the tenant's own names of other domains; real threads hang, past their time."""
    under_test = resolver(names, timeout_s=0.1, lookups_max=128)
    hung = [
        asyncio.create_task(resolving(under_test, f"hung{n}.hang.test", "a")) for n in range(400)
    ]
    await names.hang(72)
    for n in range(50):
        assert len(await resolving(under_test, f"healthy{n}.example", "b")) == 2
        assert len(await resolving(under_test, f"own{n}.example", "a")) == 2
    for one in hung:
        one.cancel()
    await asyncio.wait(hung)


async def test_what_finds_no_place_waits_for_one_and_says_that_it_is_our_lack(
    names: Names,
) -> None:
    under_test = resolver(names, timeout_s=0.1, lookups_max=1)
    with pytest.raises(OSError, match="longer than"):
        await under_test.resolve("hung.example")
    asker = Attempt("b")
    waiting = asyncio.create_task(resolving(under_test, "healthy.example", asker))
    await asyncio.wait((waiting,), timeout=0.2)  # longer than a look-up may take
    assert (waiting.done(), asker.lacking) == (False, True)
    await names.release()

    assert len(await waiting) == 2
    assert not asker.lacking


async def test_what_nobody_waits_for_any_more_is_not_looked_up(names: Names) -> None:
    under_test = resolver(names, lookups_max=1)
    hung = asyncio.create_task(under_test.resolve("hung.example"))
    await names.hang(1)
    for tenant in ("a", "b"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await resolving(under_test, "waiting.example", tenant)
    await names.release()
    await hung

    assert len(await under_test.resolve("next.example")) == 2
    assert "waiting.example" not in names.asked


async def test_a_name_that_two_tenants_wait_for_is_looked_up_in_the_turn_of_the_first(
    names: Names,
) -> None:
    """One tenant's hung look-ups do not keep another from a name that both use."""
    under_test = resolver(names, lookups_max=8)
    hung = [asyncio.create_task(resolving(under_test, f"hung{n}.x.test", "a")) for n in range(8)]
    await names.hang(5)
    both = [
        asyncio.create_task(resolving(under_test, "both.x.test", tenant)) for tenant in ("a", "b")
    ]

    assert [len(found) for found in await asyncio.gather(*both)] == [2, 2]
    assert names.asked.count("both.x.test") == 1
    names.released.set()
    await asyncio.gather(*hung)


async def test_no_thread_for_a_look_up_is_our_lack_and_is_not_remembered(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_test = resolver(names)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        with pytest.raises(OwnLack, match="no thread"):
            await under_test.resolve("example.com")

    assert len(await under_test.resolve("example.com")) == 2


def cannot_start(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
async def test_a_lack_of_ours_that_a_look_up_meets_is_told_as_it_is(
    names: Names, trouble: OSError
) -> None:
    names.answers["a.example"] = trouble
    under_test = resolver(names)
    with pytest.raises(OSError, match=r"Too many|Cannot allocate") as met:
        await under_test.resolve("a.example")
    assert lack_of(met.value) is not None
    del names.answers["a.example"]

    assert len(await under_test.resolve("a.example")) == 2


# --- addresses that are no longer fresh ---

SERVFAIL = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NXDOMAIN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def stale(names: Names, host: str, **changes: Any) -> Resolver:
    """A resolver that knows a host's addresses, which are not fresh any more."""
    names.answers[host] = ("192.0.2.7",)
    under_test = resolver(names, **{"cache_s": 0.0, **changes})
    await under_test.resolve(host)
    return under_test


def hosts(found: list[Any]) -> list[str]:
    return [one["host"] for one in found]


async def test_stale_addresses_serve_while_looking_them_up_again_fails(names: Names) -> None:
    under_test = await stale(names, "a.example")
    names.answers["a.example"] = SERVFAIL
    for _ in range(2):
        assert hosts(await under_test.resolve("a.example")) == ["192.0.2.7"]
    names.answers["a.example"] = ("192.0.2.8",)

    assert hosts(await under_test.resolve("a.example")) == ["192.0.2.8"]


async def test_stale_addresses_serve_while_looking_them_up_again_hangs(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment; whoever comes next does not wait at all."""
    monkeypatch.setattr("dispatcher.sending.resolver._PATIENCE_S", 0.05)
    under_test = await stale(names, "a.example")
    names.hung_hosts.add("a.example")
    asker = Attempt("a")
    assert hosts(await resolving(under_test, "a.example", asker)) == ["192.0.2.7"]
    assert not asker.lacking
    async with asyncio.timeout(0):
        assert hosts(await under_test.resolve("a.example")) == ["192.0.2.7"]

    assert names.asked == ["a.example"] * 2


async def test_stale_addresses_serve_while_there_is_no_place_to_look_them_up_again(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.sending.resolver._PATIENCE_S", 0.05)
    under_test = await stale(names, "a.example", lookups_max=1)
    hung = asyncio.create_task(under_test.resolve("hung.example"))
    await names.hang(1)

    assert hosts(await under_test.resolve("a.example")) == ["192.0.2.7"]
    names.released.set()
    await hung


async def test_a_name_that_is_gone_is_gone_whatever_it_was(names: Names) -> None:
    under_test = await stale(names, "a.example")
    names.answers["a.example"] = NXDOMAIN
    for _ in range(2):
        with pytest.raises(OSError, match="not known"):
            await under_test.resolve("a.example")


async def test_stale_addresses_serve_for_a_bounded_time(names: Names) -> None:
    under_test = await stale(names, "a.example", stale_s=0.0)
    names.answers["a.example"] = SERVFAIL
    with pytest.raises(OSError, match="Temporary failure"):
        await under_test.resolve("a.example")


# --- many, and the end ---


async def test_a_burst_of_new_hosts_waits_for_its_turn(names: Names) -> None:
    """More hosts than places is no error while look-ups end."""
    under_test = resolver(names)
    hosts = [f"host{n}.example" for n in range(40)]
    answers = await asyncio.gather(*(under_test.resolve(host) for host in hosts))

    assert all(len(answer) == 2 for answer in answers)
    assert sorted(names.asked) == sorted(hosts)


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
