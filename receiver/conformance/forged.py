"""Deliveries that nobody has signed like that: none may be believed."""

from collections.abc import Callable
from typing import TypeAlias

from receiver.conformance.case import Case, refuse
from receiver.conformance.delivery import (
    STALE_S,
    Delivery,
    Signer,
    tampered,
    timed,
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

Change: TypeAlias = Callable[[Delivery, Delivery], Delivery]


def forged(signer: Signer) -> list[Case]:
    """Each is a good delivery with one thing changed."""
    changes = [
        *_BOTH,
        *(_FOUNDING if signer.sha256 else []),
        *(_STANDARD if signer.standard else []),
        *(_MIXED if signer.standard and signer.sha256 else []),
    ]
    found = []
    for n, (name, change, why) in enumerate(changes):
        job = f"forged{n}"
        good = signer.deliver(signer.payload(job), job)
        strange = signer.deliver(good.body, job, secret=generate_secret())
        long = "endless" in name  # servers may cut off a header of that length themselves
        delivery = change(good, strange)
        found.append(refuse(name, delivery, why, job=signer.job(job), may_close=long))
    return found


def stale(signer: Signer) -> list[Case]:
    """Sign validly, at another time; only the Standard Webhooks scheme tells."""
    if not signer.standard:
        return []

    def shifted(job: str, shift_s: int) -> Delivery:
        return signer.deliver(signer.payload(job), job, shift_s=shift_s)

    number = "refuse a timestamp that is not digits alone: comparing with NaN lets everything in"
    return [
        refuse(
            "an hour old",
            shifted("stale", -STALE_S),
            "refuse what is older than five minutes: a recorded request can be sent again",
            job=signer.job("stale"),
        ),
        refuse(
            "an hour ahead",
            shifted("ahead", STALE_S),
            "refuse what is from the future as well, or a recorded one lasts that long",
            job=signer.job("ahead"),
        ),
        refuse(
            "a timestamp that is no number",
            timed(signer, signer.payload("nan"), "nan", "NaN"),
            number,
            job=signer.job("nan"),
        ),
    ]


def _sha256(good: Delivery, change: Callable[[str], str]) -> Delivery:
    """Return the founding scheme alone, its value changed."""
    value = change(good.headers[SHA256_HEADER])
    return with_header(without(good, *STANDARD_HEADERS), SHA256_HEADER, value)


def _v1(good: Delivery, change: Callable[[str], str]) -> Delivery:
    """Return the standard scheme alone, its value changed."""
    value = change(good.headers[SIGNATURE_HEADER])
    return with_header(without(good, SHA256_HEADER), SIGNATURE_HEADER, value)


def _one_wrong(good: Delivery, strange: Delivery) -> Delivery:
    return with_header(good, SIGNATURE_HEADER, strange.headers[SIGNATURE_HEADER])


_WHOLE = "compare the whole value, in constant time, with what you computed"
_EVERY = "every signature header that is there must hold, not just one (--schemes sha256 checks a "
_EVERY += "receiver that knows the founding scheme alone)"

_BOTH: list[tuple[str, Change, str]] = [
    (
        "no signature",
        lambda good, _: without(good, SHA256_HEADER, *STANDARD_HEADERS),
        "refuse what is not signed",
    ),
    ("a body that was changed", lambda good, _: tampered(good), "verify the body that you use"),
    ("a strange secret", lambda _, strange: strange, "compare with what your secret gives"),
]
_FOUNDING: list[tuple[str, Change, str]] = [
    ("sha1= for sha256=", lambda good, _: _sha256(good, lambda v: "sha1=" + v[7:47]), _WHOLE),
    ("no prefix at all", lambda good, _: _sha256(good, lambda v: v[7:]), _WHOLE),
    ("half a signature", lambda good, _: _sha256(good, lambda v: v[:39]), _WHOLE),
    ("an empty signature", lambda good, _: _sha256(good, lambda v: ""), _WHOLE),
    ("an endless signature", lambda good, _: _sha256(good, lambda v: v + "0" * 5000), _WHOLE),
]
_STANDARD: list[tuple[str, Change, str]] = [
    (
        "another message's id",
        lambda good, _: with_header(good, ID_HEADER, "msg_other"),
        "the signature covers id.timestamp.body: " + _EVERY,
    ),
    ("an id without its signature", lambda good, _: without(good, SIGNATURE_HEADER), _EVERY),
    (
        "half a v1 signature",
        lambda good, _: _v1(good, lambda v: v[:24]),
        _WHOLE,
    ),
    (
        "a v1 signature called v2",
        lambda good, _: _v1(good, lambda v: v.replace("v1,", "v2,")),
        "only values that begin with v1, count",
    ),
]
_MIXED: list[tuple[str, Change, str]] = [("one scheme right, one wrong", _one_wrong, _EVERY)]
