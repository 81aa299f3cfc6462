"""All cases of the kit, in order. The cases here must be taken: valid deliveries, and valid ones
again, at once or in another order. Pure."""

from collections.abc import Iterator
from typing import Final

from receiver.conformance.deliveries import (
    ONCE,
    Case,
    Delivery,
    Effects,
    Signer,
    accept,
    chunked,
)
from receiver.conformance.forged import forged, huge, malformed, stale

HUGE_BYTES: Final = 65 * 1024 * 1024  # beyond the largest body that our own can be set to take
COPIES: Final = 20

_KEY: Final = "dedupe by jobId under a unique key of the database; keep the first final status"
_INSERT: Final = "insert under a unique key and see whether that worked; looking first is a race"


def cases(signer: Signer, *, huge_bytes: int = HUGE_BYTES) -> Iterator[Case]:
    """Yield all cases for what this signer signs, one at a time: the last ones are large. The first
    is the plainest there can be."""
    yield from good(signer)
    yield from repeated(signer)
    yield from forged(signer)
    yield from stale(signer)
    yield from malformed(signer)
    yield from huge(signer, huge_bytes)
    yield accept(
        signer,
        "one more after all that",
        "last",
        signer.deliver(signer.payload("last"), "last"),
        "something above has broken it: look at its log",
    )


def good(signer: Signer) -> list[Case]:
    """Return deliveries that are each valid in a way of their own."""
    make = signer.deliver
    odd = (
        '{ "status" : "completed",\n\t"cost": 1.50, "big": 12345678901234567890, '
        f'"caf\\u00e9": "\\/é", "jobId": "{signer.job("odd")}"  }}\r\n'
    )
    founding = make(signer.payload("sha256"), "sha256", standard=False)
    streamed = chunked(make(signer.payload("streamed"), "streamed"))
    result = [
        accept(
            signer,
            "a valid completion",
            "valid",
            make(signer.payload("valid"), "valid"),
            "nothing else counts before this one is taken",
        ),
        accept(
            signer,
            "a body that JSON writers write otherwise",
            "odd",
            make(odd.encode(), "odd"),
            "verify the raw bytes as they came, before anything parses them",
        ),
        accept(
            signer,
            "a body without its length",
            "streamed",
            streamed,
            "chunked requests are HTTP; proxies make them",
            advice=True,
        ),
    ]
    if signer.sha256 and signer.standard:
        result.append(
            accept(
                signer,
                "the founding scheme alone",
                "sha256",
                founding,
                "some senders sign with X-Webhook-Signature alone; take it unless you decided not "
                "to (--schemes standard checks a receiver that did)",
            )
        )
    return [*result, *_rotated(signer)]


def _rotated(signer: Signer) -> list[Case]:
    """Return deliveries signed by both secrets, as while one replaces the other; a receiver knows
    either."""
    new = signer.rotated(signer.payload("rotated"), "rotated", known="current")
    old = signer.rotated(signer.payload("outgoing"), "outgoing", known="previous")
    why = "during a rotation webhook-signature lists several; any one of them will do"
    result = [accept(signer, "a rotation, the new secret known", "rotated", new, why)]
    why = "during a rotation X-Webhook-Signature-Previous holds the old secret's signature"
    if not signer.sha256:
        why = "during a rotation the second of webhook-signature may be yours"
    # Who only changes the secret quickly loses nothing by it.
    name = "a rotation, the old secret known"
    return [*result, accept(signer, name, "outgoing", old, why, advice=True)]


def repeated(signer: Signer) -> list[Case]:
    """Return copies, races and orders in which a job's messages may come."""
    return [*_copies(signer), *_races(signer), *_orders(signer)]


def _copies(signer: Signer) -> list[Case]:
    twice = _one(signer, "twice", "twice")
    later = [_one(signer, "retried", "retried", shift_s=shift_s) for shift_s in (-60, -30, 0)]
    result = [
        _case(signer, "the same delivery again", ["twice"], [twice, twice, twice], _KEY),
        _case(
            signer,
            "a retry, signed anew",
            ["retried"],
            later,
            "a retry has its own time and signature: dedupe by jobId, never by those",
        ),
    ]
    if signer.standard:
        again = [_one(signer, "again", "again1"), _one(signer, "again", "again2")]
        why = "one job may come in two messages: dedupe by jobId, not by webhook-id alone"
        result.append(_case(signer, "the same end in another message", ["again"], again, why))
    return result


def _races(signer: Signer) -> list[Case]:
    racing = _one(signer, "racing", "racing")
    ends = [_one(signer, "ends", "ends1"), _one(signer, "ends", "ends2", "failed")]
    jobs = [f"many{n}" for n in range(COPIES)]
    many = [_one(signer, job, job) for job in jobs]
    either = (("completed",), ("failed",))
    return [
        _case(
            signer, f"{COPIES} copies at once", ["racing"], [racing] * COPIES, _INSERT, at_once=True
        ),
        _case(signer, "two ends at once", ["ends"], ends * 5, _INSERT, either, at_once=True),
        _case(
            signer,
            f"{COPIES} jobs at once",
            jobs,
            many,
            "take them all, or answer 503: a sender comes back after that",
            at_once=True,
        ),
    ]


def _orders(signer: Signer) -> list[Case]:
    either = (("completed",), ("running", "completed"))
    one_id = [_one(signer, "one_id", "one_id", status) for status in ("running", "completed")]
    result = [
        _case(
            signer,
            "progress after the end",
            ["late"],
            [_one(signer, "late", "late1"), _one(signer, "late", "late2", "running")],
            "once a job has ended, answer 2xx to its progress and drop it: no order is promised",
        ),
        _case(
            signer,
            "progress, then the end",
            ["early"],
            [_one(signer, "early", "early1", "running"), _one(signer, "early", "early2")],
            "progress is not the end: keep the end that comes after it",
            either,
        ),
        _case(
            signer,
            "a second end that differs",
            ["end"],
            [_one(signer, "end", "end1"), _one(signer, "end", "end2", "failed")],
            "the first final status counts; answer 2xx to another one, and report it",
        ),
    ]
    if signer.standard:
        name = "progress and end under one webhook-id"
        why = "some senders give all messages of a job one id: dedupe by jobId and final status"
        result.append(_case(signer, name, ["one_id"], one_id, why, either, advice=True))
    return result


def _one(
    signer: Signer, job: str, message: str, status: str = "completed", *, shift_s: int = 0
) -> Delivery:
    return signer.deliver(signer.payload(job, status), message, shift_s=shift_s)


def _case(
    signer: Signer,
    name: str,
    jobs: list[str],
    deliveries: list[Delivery],
    why: str,
    effects: tuple[Effects, ...] = ONCE,
    *,
    at_once: bool = False,
    advice: bool = False,
) -> Case:
    return Case(
        name=name,
        deliveries=deliveries,
        response="2xx",
        why=why,
        at_once=at_once,
        jobs=tuple(signer.job(job) for job in jobs),
        effects=effects,
        advice=advice,
    )
