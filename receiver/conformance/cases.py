"""What the kit checks: each case's deliveries, and what a receiver must make of them. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from receiver.conformance.delivery import (
    STALE_S,
    Delivery,
    Signer,
    tampered,
    with_header,
    without,
)
from receiver.signature import (
    ID_HEADER,
    SHA256_HEADER,
    SIGNATURE_HEADER,
    STANDARD_HEADERS,
    generate_secret,
)

Answer: TypeAlias = Literal["2xx", "4xx"]
Change: TypeAlias = Callable[[Delivery, Delivery], Delivery]

COPIES: Final = 20
HUGE_BYTES: Final = 65 * 1024 * 1024  # beyond the largest body that our own can be set to take
DEPTH: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Deliveries, sent in turn (``at_once``: together), and what must become of them.

    ``effects`` are the statuses of ``job`` that its handler must have been handed in the end, in
    this order; None where the case says nothing of that. ``advice`` marks what a receiver may
    do otherwise without losing or doubling a completion.
    """

    name: str
    deliveries: list[Delivery] = field(repr=False)
    answer: Answer
    at_once: bool = False
    job: str | None = None
    effects: tuple[tuple[str, ...], ...] | None = None
    advice: bool = False
    may_close: bool = False  # ending the connection is an answer too


def cases(signer: Signer, *, huge_bytes: int = HUGE_BYTES) -> list[Case]:
    """All cases for what this signer signs."""
    found = [*_good(signer), *_repeated(signer), *_forged(signer), *_malformed(signer, huge_bytes)]
    if signer.standard:
        found += _stale(signer)
    last = signer.deliver(signer.payload("last"), "last")
    return [*found, _accept(signer, "one more after all that", "last", last)]


def _accept(signer: Signer, name: str, job: str, delivery: Delivery, **more: bool) -> Case:
    once = (("completed",),)
    return Case(
        name=name, deliveries=[delivery], answer="2xx", job=signer.job(job), effects=once, **more
    )


def _good(signer: Signer) -> list[Case]:
    make = signer.deliver
    odd = (
        '{ "status" : "completed",\n\t"cost": 1.50, "big": 12345678901234567890, '
        f'"caf\\u00e9": "\\/é", "jobId": "{signer.job("odd")}"  }}\r\n'
    )
    both = signer.standard and signer.sha256
    founding = make(signer.payload("sha256"), "sha256", standard=False)
    return [
        _accept(signer, "a valid completion", "valid", make(signer.payload("valid"), "valid")),
        _accept(signer, "a body that JSON writers write otherwise", "odd", make(odd.encode(), "o")),
        _accept(
            signer,
            "a secret in rotation",
            "rotated",
            signer.rotated(signer.payload("rotated"), "rotated"),
        ),
        *([_accept(signer, "the founding scheme alone", "sha256", founding)] if both else []),
    ]


def _repeated(signer: Signer) -> list[Case]:
    def one(job: str, message: str, status: str = "completed") -> Delivery:
        return signer.deliver(signer.payload(job, status), message)

    twice, racing = one("twice", "twice"), one("racing", "racing")
    completed, failed = one("end", "end1"), one("end", "end2", "failed")
    once = (("completed",),)
    either = (("completed",), ("running", "completed"))
    return [
        Case(
            name="the same delivery again",
            deliveries=[twice, twice, twice],
            answer="2xx",
            job=signer.job("twice"),
            effects=once,
        ),
        Case(
            name=f"{COPIES} copies at once",
            deliveries=[racing] * COPIES,
            answer="2xx",
            at_once=True,
            job=signer.job("racing"),
            effects=once,
        ),
        Case(
            name="progress after the end",
            deliveries=[one("late", "late1"), one("late", "late2", "running")],
            answer="2xx",
            job=signer.job("late"),
            effects=once,
        ),
        Case(
            name="progress, then the end",
            deliveries=[one("early", "early1", "running"), one("early", "early2")],
            answer="2xx",
            job=signer.job("early"),
            effects=either,
        ),
        Case(
            name="a second end that differs",
            deliveries=[completed, failed],
            answer="2xx",
            job=signer.job("end"),
            effects=once,
        ),
    ]


def _forged(signer: Signer) -> list[Case]:
    changes: list[tuple[str, Change]] = [
        ("no signature", lambda good, _: without(good, SHA256_HEADER, *STANDARD_HEADERS)),
        ("a body that was changed", lambda good, _: tampered(good)),
        ("a strange secret", lambda _, strange: strange),
    ]
    if signer.sha256:
        changes += [
            ("sha1= for sha256=", lambda good, _: _sha256(good, lambda v: "sha1=" + v[7:47])),
            ("no prefix at all", lambda good, _: _sha256(good, lambda v: v[7:])),
            ("an empty signature", lambda good, _: _sha256(good, lambda v: "")),
            ("an endless signature", lambda good, _: _sha256(good, lambda v: v + "0" * 5000)),
        ]
    if signer.standard:
        changes += [
            ("another message's id", lambda good, _: with_header(good, ID_HEADER, "msg_other")),
            ("an id without its signature", lambda good, _: without(good, SIGNATURE_HEADER)),
            ("one scheme right, one wrong", _one_wrong),
        ]
    found = []
    for n, (name, change) in enumerate(changes):
        job = f"forged{n}"
        good = signer.deliver(signer.payload(job), job)
        strange = signer.deliver(good.body, job, secret=generate_secret())
        found.append(_refuse(name, change(good, strange), job=signer.job(job)))
    return found


def _sha256(good: Delivery, change: Callable[[str], str]) -> Delivery:
    """The founding scheme alone, its value changed."""
    value = change(good.headers[SHA256_HEADER])
    return with_header(without(good, *STANDARD_HEADERS), SHA256_HEADER, value)


def _one_wrong(good: Delivery, strange: Delivery) -> Delivery:
    return with_header(good, SIGNATURE_HEADER, strange.headers[SIGNATURE_HEADER])


def _refuse(
    name: str,
    delivery: Delivery,
    *,
    job: str | None = None,
    advice: bool = False,
    may_close: bool = False,
) -> Case:
    nothing: tuple[tuple[str, ...], ...] | None = ((),) if job else None
    return Case(
        name=name,
        deliveries=[delivery],
        answer="4xx",
        job=job,
        effects=nothing,
        advice=advice,
        may_close=may_close or "endless" in name,
    )


def _stale(signer: Signer) -> list[Case]:
    def shifted(job: str, shift_s: int) -> Delivery:
        return signer.deliver(signer.payload(job), job, shift_s=shift_s)

    return [
        _refuse("an hour old", shifted("stale", -STALE_S), job=signer.job("stale")),
        _refuse("an hour ahead", shifted("ahead", STALE_S), job=signer.job("ahead")),
    ]


def _malformed(signer: Signer, huge_bytes: int) -> list[Case]:
    job = signer.job("malformed").encode()
    # Signed by the founding scheme alone where that is there: a signed id would name any bytes.
    standard = not signer.sha256

    def signed(body: bytes) -> Delivery:
        return signer.deliver(body, "malformed", standard=standard)

    bodies: list[tuple[str, bytes, bool]] = [
        ("no JSON", b"{", False),
        ("nothing", b"", False),
        ("not UTF-8", b'{"jobId":"' + job + b'\xff","status":"completed"}', False),
        ("an array", b"[1]", False),
        ("no jobId", b'{"status":"completed"}', False),
        ("a number as jobId", b'{"jobId":7,"status":"completed"}', False),
        ("an endless jobId", b'{"jobId":"' + b"j" * 100_000 + b'"}', False),
        ("nesting without end", b'{"jobId":"x","y":' + b"[" * DEPTH + b"]" * DEPTH + b"}", False),
        ("NaN", b'{"jobId":"' + job + b'","cost":NaN}', True),
        ("two jobIds", b'{"jobId":"a","jobId":"' + job + b'"}', True),
    ]
    found = [
        _refuse(f"malformed: {name}", signed(body), advice=advice)
        for name, body, advice in bodies
        if signer.sha256 or advice or name in ("a number as jobId", "an endless jobId")
    ]
    huge = signer.payload("huge", filler="x" * huge_bytes)
    too_large = _refuse("a huge body", signer.deliver(huge, "huge"), may_close=True)
    return [*found, too_large]
