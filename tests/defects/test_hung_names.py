"""One tenant's name servers that never answer cost nobody else anything (I6); what we could not
look up for want of a place spends no try (I2, D21)."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.policy import Policy, dump
from tests.dispatcher.engine.rig import rigged
from tests.dispatcher.peers import OK, SECRETS, answers, delivery, listening, sending

PATIENT = dump(Policy(attempts=1, timeout=30.0, jitter=0))
BRIEF = dump(Policy(attempts=1, timeout=1.0, jitter=0))


class NameServers:
    """Real threads ask them; those of `hang.test` answer when they are released, others at once."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked: Counter[str] = Counter()

    def __call__(self, host: str) -> tuple[str, ...]:
        self.asked[host] += 1
        if host.endswith("hang.test"):
            self.released.wait()
        return ("127.0.0.1",)


@pytest.fixture
def servers() -> Iterator[NameServers]:
    servers = NameServers()
    yield servers
    servers.released.set()


async def test_i6_hung_names_of_one_tenant_leave_another_tenants_deliveries_alone(
    tmp_path: Path, servers: NameServers
) -> None:
    """400 names that hang, with the settings as they come; 60 healthy names beside them."""
    async with (
        listening(answers(OK)) as peer,
        sending(lookup=servers, dns_timeout=0.5) as sender,
        rigged(tmp_path, send=sender.send) as rig,
    ):
        hung = [
            asyncio.create_task(
                rig.submit(f"h{n}", tenant="t1", url=f"http://x{n}.hang.test/", policy=BRIEF)
            )
            for n in range(400)
        ]
        await asyncio.wait(hung)
        made = [
            await rig.submit(
                f"w{n}", tenant="t2", url=f"http://h{n}.well.test:{peer.port}/", policy=PATIENT
            )
            for n in range(60)
        ]

        async def delivered() -> bool:
            found = [await rig.get(one.id, "t2") for one in made]
            return all(one.state == "delivered" and one.attempts == 1 for one in found)

        await rig.until(delivered)
        assert not servers.released.is_set()
        servers.released.set()


async def test_i2_what_found_no_place_in_time_spends_no_try_and_goes_out_later(
    tmp_path: Path, servers: NameServers
) -> None:
    async with (
        listening(answers(OK)) as peer,
        sending(lookup=servers, dns_lookups_max=1, dns_timeout=0.2) as sender,
        rigged(tmp_path, send=sender.send) as rig,
    ):
        hung = await rig.submit("h", tenant="t1", url="http://x.hang.test/", policy=BRIEF)

        async def tried() -> bool:
            return len(await rig.store.attempts("t1", hung.id)) == 1

        await rig.until(tried)
        (attempt,) = await rig.store.attempts("t1", hung.id)
        assert attempt.outcome == "unreachable"  # it was asked for, and did not answer

        made = await rig.submit(
            "w", tenant="t2", url=f"http://well.test:{peer.port}/", policy=BRIEF
        )

        async def tried_too() -> bool:
            return len(await rig.store.attempts("t2", made.id)) > 0

        await rig.until(tried_too)
        found = await rig.get(made.id, "t2")
        assert (await rig.store.attempts("t2", made.id))[0].outcome == "interrupted"
        assert (found.state, found.tries) == ("pending", 0)
        servers.released.set()

        async def delivered() -> bool:
            return (await rig.get(made.id, "t2")).state == "delivered"

        await rig.until(delivered)
        assert rig.figure("dispatcher_own_faults_total") >= 1


async def test_no_attempt_is_a_time_out_for_want_of_a_place(servers: NameServers) -> None:
    """Each is what its destination did, or our own lack."""
    async with sending(lookup=servers, dns_lookups_max=8, dns_timeout=0.3) as sender:
        outcomes = await asyncio.gather(
            *(
                sender.send(delivery(f"http://x{n}.hang.test/", timeout=1.0), SECRETS)
                for n in range(40)
            )
        )
    found = Counter((one.kind, one.lack) for one in outcomes)

    assert set(found) == {("unreachable", None), ("interrupted", "lookups")}
    assert found["unreachable", None] == sum(servers.asked.values())
