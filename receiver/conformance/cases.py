"""All cases of the kit, in order. The cases here must be taken: valid deliveries, and valid ones
again, at once or in another order. Pure."""

import json
from collections.abc import Iterator
from typing import Final

from receiver.base.completion import BOM
from receiver.conformance.deliveries import (
    Case,
    Effects,
    Signer,
    accept,
    chunked,
    cut,
    renamed,
    upgrading,
)
from receiver.conformance.forged import forged, huge, malformed, stale
from receiver.signature import Job

HUGE_BYTES: Final = 65 * 1024 * 1024  # beyond the largest body that our own can be set to take
COPIES: Final = 20

_KEY: Final = "dedupe by jobId under a unique key of the database; keep the first final status"
_SPELLING: Final = (
    "platforms write COMPLETED, succeeded, timed_out, canceled: compare without case, spaces, - "
    "and _, and know the common words; what is dropped after a 2xx is lost"
)
_SPELLINGS: Final = (
    ("a completion in other words", ("completed",), ("COMPLETED", "succeeded", "Done")),
    (
        "a failure in other words",
        ("failed", "timeout", "cancelled"),
        ("FAILED", "error", "timed_out", "canceled"),
    ),
)
_INSERT: Final = "insert under a unique key and see whether that worked; looking first is a race"


def cases(signer: Signer, *, huge_bytes: int = HUGE_BYTES) -> Iterator[Case]:
    """Yield all cases for what this signer signs, one at a time: the last ones are large. The first
    is the plainest there can be."""
    yield from _good(signer)
    yield from _named(signer)
    yield from _spelled(signer)
    yield from _rude(signer)
    yield from _rotated(signer)
    yield from _copies(signer)
    yield from _races(signer)
    yield from _orders(signer)
    yield from forged(signer)
    yield from stale(signer)
    yield from malformed(signer)
    yield from huge(signer, huge_bytes)
    why = "something above has broken it: look at its log"
    yield accept(signer, "one more after all that", ["last"], [signer.completion("last")], why)


def _good(signer: Signer) -> Iterator[Case]:
    """Yield deliveries that are each valid in a way of their own."""
    why = "nothing else counts before this one is taken"
    yield accept(signer, "a valid completion", ["valid"], [signer.completion("valid")], why)
    body = (
        '{ "status" : "completed",\n\t"cost": 1.50, "big": 12345678901234567890, '
        f'"caf\\u00e9": "\\/é", "jobId": "{signer.job("odd")}"  }}\r\n'
    )
    name = "a body that JSON writers write otherwise"
    why = "verify the raw bytes as they came, before anything parses them"
    yield accept(signer, name, ["odd"], [signer.deliver(body.encode(), "odd")], why)
    streamed = chunked(signer.completion("streamed"))
    why = "chunked requests are HTTP; proxies make them"
    yield accept(signer, "a body without its length", ["streamed"], [streamed], why, advice=True)
    if signer.sha256 and signer.standard:
        sha256_only = signer.deliver(signer.payload("sha256"), "sha256", standard=False)
        why = (
            "some senders sign with X-Webhook-Signature alone; take it unless you decided not "
            "to (--schemes standard checks a receiver that did)"
        )
        yield accept(signer, "the sha256= scheme alone", ["sha256"], [sha256_only], why)


def _named(signer: Signer) -> Iterator[Case]:
    """Yield a body that names no job: signed headers do; and signed headers by other names."""
    if not signer.standard:
        return
    older = renamed(signer.deliver(signer.payload("svix"), "svix", sha256=False))
    why = "some senders name the same headers svix-id, svix-timestamp, svix-signature: know both"
    yield accept(signer, "svix-* for webhook-*", ["svix"], [older], why, advice=True)
    why = (
        "the dispatcher's X-Postback-Job-* headers, signed by the token v1j of webhook-signature, "
        "say which job it is: the rule is in deploy/receiver/README.md"
    )
    job = Job(id=signer.job("headers"), status="completed", run=1)
    bare = signer.deliver(b'{"pages": 3}', "headers", job=job)
    yield accept(signer, "a job that signed headers name", ["headers"], [bare], why, advice=True)


def _spelled(signer: Signer) -> Iterator[Case]:
    """Yield ends that say it in other words, not at all, or behind three bytes."""
    body = json.dumps({"jobId": signer.job("bare"), "output": 7}).encode()
    name = "a completion without a status"
    why = "some platforms send the bare result: no status at all is a completion"
    effects: tuple[Effects, ...] = (("completed",), ("None",), ("null",), ("",))
    yield accept(signer, name, ["bare"], [signer.deliver(body, "bare")], why, effects=effects)
    marked = signer.deliver(BOM + signer.payload("marked", "failed"), "marked")
    name = "a failure behind a byte order mark"
    why = "skip a byte order mark; and what cannot be read is not a completion: refuse it"
    failed = (("failed",),)
    yield accept(signer, name, ["marked"], [marked], why, effects=failed, may_refuse=True)
    for name, meanings, words in _SPELLINGS:
        jobs = [f"as_{word}" for word in words]
        ends = [signer.completion(job, status=word) for job, word in zip(jobs, words, strict=True)]
        lower = (word.lower() for word in words)
        effects = tuple((word,) for word in dict.fromkeys((*meanings, *words, *lower)))
        yield accept(signer, name, jobs, ends, _SPELLING, effects=effects)


def _rude(signer: Signer) -> Iterator[Case]:
    """Yield what HTTP clients, and anybody else, do to a connection."""
    why = (
        "an offer that is not taken is ignored, and the body read: Java's HttpClient and curl "
        "--http2 make one; or let the proxy in front drop the header Upgrade"
    )
    offer = upgrading(signer.completion("upgrade"))
    yield accept(signer, "an offer of HTTP/2", ["upgrade"], [offer], why, advice=True)
    halves = [cut(signer.completion("cut")), signer.completion("after_cut")]
    why = "catch what reading a body raises: any stranger can end the process"
    yield accept(signer, "a sender that hangs up, and one more", ["after_cut"], halves, why)


def _rotated(signer: Signer) -> Iterator[Case]:
    """Yield deliveries signed by both secrets, as while one replaces the other; a receiver knows
    either."""
    new = signer.rotated("rotated", known="current")
    why = "during a rotation webhook-signature lists several; any one of them will do"
    yield accept(signer, "a rotation, the new secret known", ["rotated"], [new], why)
    old = signer.rotated("outgoing", known="previous")
    why = "during a rotation X-Webhook-Signature-Previous holds the old secret's signature"
    if not signer.sha256:
        why = "during a rotation the second of webhook-signature may be yours"
    # Who only changes the secret quickly loses nothing by it.
    name = "a rotation, the old secret known"
    yield accept(signer, name, ["outgoing"], [old], why, advice=True)


def _copies(signer: Signer) -> Iterator[Case]:
    twice = [signer.completion("twice")] * 3
    yield accept(signer, "the same delivery again", ["twice"], twice, _KEY)
    later = [signer.completion("retried", shift_s=shift_s) for shift_s in (-60, -30, 0)]
    why = "a retry has its own time and signature: dedupe by jobId, never by those"
    yield accept(signer, "a retry, signed again", ["retried"], later, why)
    if signer.standard:
        again = [signer.completion("again", message) for message in ("again1", "again2")]
        why = "one job may come in two messages: dedupe by jobId, not by webhook-id alone"
        yield accept(signer, "the same end in another message", ["again"], again, why)


def _races(signer: Signer) -> Iterator[Case]:
    racing = [signer.completion("racing")] * COPIES
    name = f"{COPIES} copies at once"
    yield accept(signer, name, ["racing"], racing, _INSERT, at_once=True)
    ends = [signer.completion("ends", "ends1"), signer.completion("ends", "ends2", "failed")]
    either = (("completed",), ("failed",))
    name = "two ends at once"
    yield accept(signer, name, ["ends"], ends * 5, _INSERT, effects=either, at_once=True)
    jobs = [f"many{n}" for n in range(COPIES)]
    many = [signer.completion(job) for job in jobs]
    why = "take them all, or answer 503: a sender comes back after that"
    yield accept(signer, f"{COPIES} jobs at once", jobs, many, why, at_once=True)


def _orders(signer: Signer) -> Iterator[Case]:
    one = signer.completion
    either = (("completed",), ("running", "completed"))
    late = [one("late", "late1"), one("late", "late2", "running")]
    why = "once a job has ended, answer 2xx to its progress and drop it: no order is promised"
    yield accept(signer, "progress after the end", ["late"], late, why)
    early = [one("early", "early1", "running"), one("early", "early2")]
    why = "progress is not the end: keep the end that comes after it"
    yield accept(signer, "progress, then the end", ["early"], early, why, effects=either)
    ends = [one("end", "end1"), one("end", "end2", "failed")]
    why = "the first final status counts; answer 2xx to another one, and report it"
    yield accept(signer, "a second end that differs", ["end"], ends, why)
    if signer.standard:
        one_id = [one("one_id", "one_id", status) for status in ("running", "completed")]
        name = "progress and end under one webhook-id"
        why = "some senders give all messages of a job one id: dedupe by jobId and final status"
        yield accept(signer, name, ["one_id"], one_id, why, effects=either, advice=True)
