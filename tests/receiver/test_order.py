"""Any order of arrival, any duplicates, any crashes of a handler: the customer's final state is the
oracle's. On real files, through the real path, with the handler's writes in `tx`."""

import asyncio
import itertools
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from receiver import Event, Receiver, Settings
from receiver.source import Source
from receiver.testing import Client, Clock

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
TOKEN = "test-token-test-token"
END = {"completed", "failed"}
Sent = tuple[str, int]  # a status, and which message of that status: its bytes and its id


def oracle(arrived: Sequence[Sent]) -> str | None:
    """What a person would say of the job: its first end; without one its newest progress."""
    ends = [status for status, _ in arrived if status in END]
    return ends[0] if ends else arrived[-1][0] if arrived else None


async def final_state(
    sent: Sequence[Sent],
    *,
    together: bool = False,
    fails: frozenset[Sent] = frozenset(),
    database_url: str | None = None,
    **source: Any,
) -> str | None:
    """Sends these messages of one job, and reads the state that the customer is left with."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop.db"
        with closing(sqlite3.connect(shop)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, status TEXT)")
        settings = Settings(
            database_url=database_url or f"sqlite:///{folder}/inbox.db",
            effects_url=f"sqlite:///{shop}",
        )
        made = Source(**{"secrets": (SECRET,), **source})
        receiver = Receiver(settings, sources=[made], now_ms=clock)

        @receiver.on("*")
        def apply(event: Event, tx: Any) -> None:
            tx.execute("INSERT OR REPLACE INTO jobs VALUES ('job_1', ?)", (event.status,))
            if (event.status, event.output) in fails and event.attempt == 1:
                raise RuntimeError("the customer's database was away")

        async with Client(receiver, SECRET, clock=clock) as client:
            posts = (post(client, status, n, made) for status, n in sent)
            if together:
                await asyncio.gather(*posts)
            else:
                for one in posts:
                    await one
            await client.advance(timedelta(minutes=10))
        with closing(sqlite3.connect(shop)) as db:
            row = db.execute("SELECT status FROM jobs").fetchone()
        return row[0] if row else None


async def post(client: Client, status: str, n: int, source: Source) -> None:
    if source.secrets:
        payload = {"jobId": "job_1", "status": status, "output": n}
        await client.send(payload, message_id=f"cb_{n:032x}")
    else:
        body = f'{{"id":"job_1","status":"{status.upper()}","output":{n}}}'.encode()
        answer = await client._http.post(f"{source.path}?token={TOKEN}", content=body)
        assert answer.status_code == 200


STORY: list[Sent] = [("queued", 1), ("running", 2), ("running", 3)]


@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_every_order_of_a_jobs_story_ends_in_its_end(end: str) -> None:
    """All 24 orders of queued, running, running and the end."""
    for order in itertools.permutations([*STORY, (end, 4)]):
        assert await final_state(order) == end


@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_a_jobs_story_ends_in_its_end_on_postgres_too(end: str, empty_postgres: str) -> None:
    """Each order at a job of another source, so that all may share one inbox."""
    orders = itertools.permutations([*STORY, (end, 4), (end, 4)])
    for n, order in enumerate(itertools.islice(orders, 0, None, 5)):
        path = f"/{end}/{n}"
        assert await final_state(order, database_url=empty_postgres, path=path) == end


@given(
    sent=st.lists(
        st.sampled_from([*STORY, ("completed", 4), ("failed", 5)]), min_size=1, max_size=10
    ),
    fails=st.frozensets(st.sampled_from([("running", 2), ("completed", 4), ("failed", 5)])),
)
@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_order_with_duplicates_ends_in_the_oracles_state(
    sent: list[Sent], fails: frozenset[Sent]
) -> None:
    """Also while handlers fail and are tried again behind later messages."""
    arrived = list(dict.fromkeys(sent))  # a duplicate says nothing new
    found = asyncio.run(final_state(sent, fails=fails))
    if any(status in END for status, _ in arrived):
        assert found == oracle(arrived)
    else:
        assert found in {status for status, _ in arrived}


@given(seed=st.integers(0, 2**32))
@examples(max_examples=10, deadline=None)
def test_messages_that_arrive_together_end_in_one_of_their_ends(seed: int) -> None:
    """Whichever won, only one did."""
    sent = [*STORY, ("completed", 4), ("failed", 5)] * 3
    Random(seed).shuffle(sent)
    assert asyncio.run(final_state(sent, together=True)) in END


async def test_messages_that_share_a_signed_id_are_each_applied() -> None:
    """Some senders take the job's id for all of its messages."""
    assert await final_state([("running", 2), ("completed", 2), ("running", 2)]) == "completed"


@given(
    runs=st.permutations([("failed", 1), ("completed", 2), ("failed", 3), ("completed", 4)]),
    again=st.lists(st.integers(0, 3), max_size=4),
    keep=st.integers(1, 4),
)
@examples(max_examples=40, deadline=None)
def test_with_latest_the_last_runs_end_counts_in_any_order(
    runs: list[Sent], again: list[int], keep: int
) -> None:
    """A job run again under its id: the dispatcher's ids tell the runs apart."""
    sent = runs[:keep] + [runs[n] for n in again if n < keep]
    expected = max(sent, key=lambda one: one[1])[0]
    assert asyncio.run(final_state(sent, reruns="latest")) == expected


@pytest.mark.parametrize(
    ("sent", "reruns", "expected"),
    [
        ("failed completed", "first", "failed"),
        ("failed completed", "latest", "completed"),
        ("completed failed", "latest", "completed"),
        ("cancelled completed", "latest", "cancelled"),
        ("failed failed completed", "latest", "completed"),
        ("failed completed failed", "latest", "completed"),
    ],
)
async def test_unsigned_messages_are_runs_again_only_after_a_failure(
    sent: str, reruns: Literal["first", "latest"], expected: str
) -> None:
    """Nothing orders them, so a success is never taken back."""
    messages = [(status, n) for n, status in enumerate(sent.split())]
    more: dict[str, Any] = {"secrets": (), "url_token": TOKEN, "dialect": "runpod"}
    assert await final_state(messages, reruns=reruns, **more) == expected
