"""What sealing takes: `python -m tests.bench.sealing [--messages N]`. CPU of this process for each
message that an inbox in a SQLite file receives, claims and settles, with a key ring and without, at
a small and a large body; and the parts that sealing consists of. Nothing here passes or fails."""

import argparse
import asyncio
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Final

from receiver.base.keyring import Keyring, make_key, read_keys
from receiver.inbox.attempts import Settlement
from receiver.inbox.inbox import Inbox
from receiver.inbox.message import Message
from receiver.inbox.opening import open_inbox
from receiver.inbox.seals import Seals
from receiver.settings import Settings

SIZES: Final = (512, 65_536)
TOGETHER: Final = 64  # messages in a commit
ROUNDS: Final = 5
_NOW_MS: Final = 1_700_000_000_000


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sealing", description=__doc__)
    parser.add_argument("--messages", type=int, default=4_096, help="in each round (4096)")
    count = max(TOGETHER, parser.parse_args().messages // TOGETHER * TOGETHER)
    print(f"{'body':>8} {'':24} {'plain':>9} {'sealed':>9}   µs of CPU a message")
    for size in SIZES:
        for what, plain, sealed in asyncio.run(_inboxes(size, min(count, 2**26 // size))):
            print(f"{size:>6} B {what:24} {plain:9.1f} {sealed:9.1f}   {sealed - plain:+.1f}")
        for what, us in _parts(size):
            print(f"{size:>6} B {what:24} {'':9} {us:9.2f}")


async def _inboxes(size: int, count: int) -> list[tuple[str, float, float]]:
    """Each verb's CPU without a ring and with one: medians of rounds that take turns."""
    keys = (make_key(),)
    with tempfile.TemporaryDirectory(prefix="postback-sealing-") as folder:
        inboxes = []
        for name, ring in (("plain", ()), ("sealed", keys)):
            url = f"sqlite:///{Path(folder) / name}.db"
            inboxes.append(await open_inbox(Settings(database_url=url, encryption_keys=ring)))
        rounds = [[await _round(inbox, size, count, n) for inbox in inboxes] for n in range(ROUNDS)]
        for inbox in inboxes:
            await inbox.close()
    verbs = ("receive", "claim and settle")
    return [
        (verb, *(median(one[place][n] for one in rounds) for place in (0, 1)))  # type: ignore[misc]
        for n, verb in enumerate(verbs)
    ]


async def _round(inbox: Inbox, size: int, count: int, n: int) -> tuple[float, float]:
    bodies = [_body(size, n * count + k) for k in range(count)]
    began_s = time.process_time()
    for start in range(0, count, TOGETHER):
        batch = bodies[start : start + TOGETHER]
        await asyncio.gather(
            *(inbox.receive(_message(f"job_{n}_{start + k}", one)) for k, one in enumerate(batch))
        )
    received_s = time.process_time()
    handled = 0
    while handled < count:
        claimed = (await inbox.claim(now_ms=_NOW_MS, limit=TOGETHER)).claimed
        settlements = [
            Settlement(id=one.id, fence=one.fence, state="handled", now_ms=_NOW_MS)
            for one in claimed
        ]
        await asyncio.gather(*(inbox.settle(one) for one in settlements))
        handled += len(claimed)
    ended_s = time.process_time()
    await inbox.prune(bodies_before_ms=_NOW_MS + 1, messages_before_ms=_NOW_MS + 1)
    return (received_s - began_s) / count * 1e6, (ended_s - received_s) / count * 1e6


def _parts(size: int) -> list[tuple[str, float]]:
    """What one message's sealing consists of."""
    ring = Keyring(read_keys(f"k:{b64encode(sha256(b'k').digest()).decode()}", "the key"))
    seals = Seals(ring, [sha256(b"hash").digest()])
    body = _body(size, 0)
    hashed = sha256(body).digest()
    sealed = seals.seal_body(body, 1, "/webhooks")
    return [
        ("keyed hash", _us(lambda: seals.forms(hashed))),
        ("seal", _us(lambda: seals.seal_body(body, 1, "/webhooks"))),
        ("open", _us(lambda: seals.open_body(sealed, 1, "/webhooks"))),
    ]


def _us(function: Callable[[], object]) -> float:
    """Median CPU of a call, in µs."""
    times = []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        for _ in range(2_000):
            function()
        times.append((time.process_time() - began_s) / 2_000 * 1e6)
    return median(times)


def _body(size: int, n: int) -> bytes:
    head = f'{{"jobId":"job_{n}","status":"completed","output":"'.encode()
    return head + b"x" * (size - len(head) - 2) + b'"}'


def _message(job_id: str, body: bytes) -> Message:
    return Message(
        source="/webhooks",
        message_id=f"m_{job_id}",
        body=body,
        content_type="application/json",
        kind="terminal",
        job_id=job_id,
        job_status="completed",
        sent_ms=_NOW_MS,
        received_ms=_NOW_MS,
        has_handler=True,
    )


if __name__ == "__main__":
    main()
