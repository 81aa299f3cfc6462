"""What destinations answer, from a real socket to the store: hostile answers, being turned away,
and waits that are longer than a callback may live."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dispatcher.policy import Policy, dump
from receiver.base.clock import now_ms
from tests.dispatcher.engine.rig import Rig, rigged
from tests.dispatcher.peers import OK, Behaviour, Peer, answer, answers, listening, sending
from tests.dispatcher.store.builders import TENANT, World

OK_HEAD = b"HTTP/1.1 200 OK\r\n"
ONCE = dump(Policy(attempts=1, timeout=5.0))
# What came of each: an acknowledgement (A), another code (R), or no answer that is HTTP (P).
HOSTILE: dict[str, tuple[bytes, str]] = {
    "cl-negative": (OK_HEAD + b"Content-Length: -1\r\n\r\n", "P"),
    "cl-huge": (OK_HEAD + b"Content-Length: 99999999999999999999999\r\n\r\nx", "P"),
    "cl-twice": (OK_HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "P"),
    "cl-equal": (OK_HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nxx", "A"),
    "cl-te": (OK_HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "A"),
    "te-odd": (OK_HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "A"),
    "te-odd2": (OK_HEAD + b"Transfer-Encoding: foo\r\n\r\nabc", "A"),
    "chunk-bad": (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", "A"),
    "chunk-huge": (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nabc", "A"),
    "chunk-ext": (
        OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 40_000 + b"\r\nx\r\n0\r\n\r\n",
        "A",
    ),
    "chunk-cut": (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", "A"),
    "trailers": (
        OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        "A",
    ),
    "status-0": (b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n", "P"),
    "status-999": (b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", "R"),
    "status-1000": (b"HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n", "P"),
    "204-body": (b"HTTP/1.1 204 No\r\n\r\nab", "A"),
    "204-length": (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nabcde", "A"),
    "404-cut": (b"HTTP/1.1 404 No\r\nContent-Length: 10\r\n\r\nabc", "R"),
    "500-garbage": (b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\nzz", "R"),
    "nul-header": (OK_HEAD + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n", "P"),
    "http09": (b"hello", "P"),
    "http2": (b"HTTP/2 200\r\n\r\n", "P"),
    "tls": (b"\x15\x03\x01\x00\x02\x02\x28", "P"),
    "many-headers": (OK_HEAD + b"".join(b"H%d: x\r\n" % i for i in range(500)) + b"\r\n", "P"),
    "ra-odd": (
        b"HTTP/1.1 500 X\r\nRetry-After: Mon, 99 Foo 0000 99:99:99 GMT\r\n"
        b"Content-Length: 0\r\n\r\n",
        "R",
    ),
    "surrogates": (
        b"HTTP/1.1 500 \xed\xa0\x80\r\nRetry-After: \xed\xa0\x80\r\n"
        b"Content-Length: 3\r\n\r\n\xed\xa0\x80",
        "R",
    ),
    "cl-cut": (OK_HEAD + b"Content-Length: 10\r\n\r\nabc", "A"),
    "garbage-after": (OK_HEAD + b"Content-Length: 0\r\n\r\nGARBAGE\x00\xff", "A"),
    "two": (OK_HEAD + b"Content-Length: 0\r\n\r\nHTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", "A"),
}
MEANS = {"A": "acknowledged", "R": "rejected", "P": "protocol_error"}


@asynccontextmanager
async def delivering(folder: Path, **changes: Any) -> AsyncIterator[Rig]:
    """A running engine that sends to real sockets."""
    async with sending() as sender, rigged(folder, started=False, **changes) as rig:
        setattr(rig.engine, "_send", sender.send)  # noqa: B010  # in place of the script
        rig.engine.start()
        yield rig


def by_path(cases: dict[str, bytes]) -> Behaviour:
    """Answers each request as its path says, and hangs up."""

    async def behave(peer: Peer, reader: Any, writer: Any) -> None:
        request = await peer.receive(reader)
        if request is not None:
            writer.write(cases[request.line.split(" ")[1].strip("/")])
            await writer.drain()

    return behave


async def test_every_hostile_answer_is_one_attempt_in_the_history(tmp_path: Path) -> None:
    """None is lost, none is left leased, and no code that came is a time-out."""
    cases = {name: raw for name, (raw, _) in HOSTILE.items()}
    async with listening(by_path(cases)) as peer, delivering(tmp_path) as rig:
        made = {
            name: await rig.submit(name, url=f"http://127.0.0.1:{peer.port}/{name}", policy=ONCE)
            for name in HOSTILE
        }
        await rig.idle()
        met = {
            name: [one.outcome for one in await rig.store.attempts(TENANT, submitted.id)]
            for name, submitted in made.items()
        }

    assert met == {name: [MEANS[means]] for name, (_, means) in HOSTILE.items()}


@pytest.mark.parametrize("status", ["503 Busy", "429 Slow", "404 No"])
async def test_a_retry_after_beyond_the_maximum_age_ends_no_callback(
    tmp_path: Path, status: str
) -> None:
    """It waits for a last try shortly before its end: 12 h of maximum age, asked for a day."""
    policy = dump(Policy(attempts=14, delays=(5,), max_age=43_200))
    raw = answer(status, "Retry-After: 86400")
    async with listening(answers(raw)) as peer, delivering(tmp_path) as rig:
        one = await rig.submit(url=peer.url, policy=policy)

        async def tried() -> bool:
            return (await rig.get(one.id)).attempts == 1

        await rig.until(tried)
        shown = await rig.get(one.id)
        held_ms = (await rig.store.get_destination(TENANT, peer.url)).held_until_ms

    assert shown.due_ms is not None
    assert 0 < shown.created_ms + 43_200_000 - shown.due_ms <= 10_000
    assert held_ms is None or held_ms <= shown.due_ms + 50


async def test_that_last_try_goes_out(tmp_path: Path) -> None:
    policy = dump(Policy(attempts=14, delays=(0.1,), max_age=2))
    busy = answer("503 Busy", "Retry-After: 3600")
    async with listening(answers(busy, OK)) as peer, delivering(tmp_path) as rig:
        one = await rig.submit(url=peer.url, policy=policy)
        await rig.idle()
        shown = await rig.get(one.id)

    assert (shown.state, shown.attempts) == ("delivered", 2)


async def test_a_peer_that_turns_a_herd_away_gets_it_all_and_no_storm(tmp_path: Path) -> None:
    """60 callbacks at 20 a second, from real sockets; `test_turned_away.py` has the 150 at five a
    second, on a clock of its own."""
    taken: Counter[int] = Counter()
    posts = 0

    async def limited(peer: Peer, reader: Any, writer: Any) -> None:
        nonlocal posts
        while await peer.receive(reader) is not None:
            posts += 1
            second = now_ms() // 1_000
            taken[second] += 1
            full = taken[second] > 20
            writer.write(answer("429 Slow", "Retry-After: 1") if full else OK)

    five_tries = dump(Policy(attempts=5, delays=(1,)))
    async with listening(limited) as peer, delivering(tmp_path) as rig:
        ids = await rig.many(60, url=peer.url, policy=five_tries)
        async with asyncio.timeout(60):
            await rig.idle()
        states = Counter([(await rig.get(one)).state for one in ids])

    assert states == {"delivered": 60}
    assert posts <= 2.5 * 60


@pytest.mark.parametrize("status", ["410 Gone", "503 Busy", "429 Slow"])
async def test_the_old_urls_late_answer_says_nothing_of_the_new_url(
    tmp_path: Path, status: str
) -> None:
    """It ends or delays the one callback that it is about; the rest goes to the new URL at once."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def late(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        asked.set()
        await go.wait()
        writer.write(answer(status, "Retry-After: 3600"))

    async with (
        listening(late) as old,
        listening(answers(OK)) as new,
        delivering(tmp_path) as rig,
    ):
        world = World(make=lambda: rig.store, store=rig.store, now_ms=now_ms())
        await world.register("mended", url=old.url, concurrency=1)
        first = await rig.submit("first", name="mended")
        await asked.wait()
        rest = [await rig.submit(f"job-{n}", name="mended") for n in range(3)]
        await world.change("mended", url=new.url)
        go.set()

        async def delivered() -> bool:
            return {(await rig.get(one.id)).state for one in rest} == {"delivered"}

        await rig.until(delivered)
        shown = await world.destination("mended")
        ended = await rig.get(first.id)

    assert (shown.disabled_reason, shown.held_reason) == (None, None)
    assert len(new.received) == 3
    assert ended.state == ("dead" if status == "410 Gone" else "pending")
    assert ended.last_error == f"http_{status[:3]}"
