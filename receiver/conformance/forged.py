"""Cases that must be refused: forged and stale deliveries, none of which may be believed; then
bodies that are validly signed, but that nobody can make anything of, or that are huge. Pure."""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from receiver.conformance.deliveries import (
    STALE_S,
    Case,
    Delivery,
    Signer,
    chunked,
    refuse,
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

DEPTH: Final = 100_000
DIGITS: Final = 5_000  # beyond what Python's own int() takes
HEADER_BYTES: Final = 1024 * 1024

_LOST: Final = (
    "answer 4xx to what cannot be read: after a 2xx it is lost, else tried again for days"
)
_CRASH: Final = (
    "catch what parser and database raise, and answer 4xx; else it is tried again for days"
)
_TEXT: Final = "jobId is text of 1 to some 200 printable characters: check it before you store it"
_AMBIGUOUS: Final = "two readers may read it differently: refuse it"
_LIMIT: Final = "set a limit on bodies, counted while they come in: any sender can fill your memory"


def forged(signer: Signer) -> Iterator[Case]:
    """Yield good deliveries with one thing changed in each."""
    changes = [
        *_BOTH,
        *(_FOUNDING if signer.sha256 else []),
        *(_STANDARD if signer.standard else []),
        *(_MIXED if signer.standard and signer.sha256 else []),
    ]
    for n, (name, change, why) in enumerate(changes):
        job = f"forged{n}"
        good = signer.completion(job)
        other = signer.deliver(good.body, job, secret=generate_secret())
        long = "endless" in name  # servers may cut off a header of that length themselves
        yield refuse(name, change(good, other), why, job=signer.job(job), may_close=long)


def stale(signer: Signer) -> Iterator[Case]:
    """Yield deliveries validly signed at another time; only the Standard Webhooks scheme tells."""
    if not signer.standard:
        return
    old = signer.completion("stale", shift_s=-STALE_S)
    ahead = signer.completion("ahead", shift_s=STALE_S)
    why = "refuse what is older than five minutes: a recorded request can be sent again"
    yield refuse("an hour old", old, why, job=signer.job("stale"))
    why = "refuse what is from the future as well, or a recorded one lasts that long"
    yield refuse("an hour ahead", ahead, why, job=signer.job("ahead"))
    name = "a timestamp that is no number"
    nan = timed(signer, signer.payload("nan"), "nan", "NaN")
    why = "refuse a timestamp that is not digits alone: comparing with NaN lets everything in"
    yield refuse(name, nan, why, job=signer.job("nan"))


def _sha256(good: Delivery, change: Callable[[str], str]) -> Delivery:
    """Keep the `sha256=` scheme alone, its value changed."""
    value = change(good.headers[SHA256_HEADER])
    return with_header(without(good, *STANDARD_HEADERS), SHA256_HEADER, value)


def _v1(good: Delivery, change: Callable[[str], str]) -> Delivery:
    """Keep the standard scheme alone, its value changed."""
    value = change(good.headers[SIGNATURE_HEADER])
    return with_header(without(good, SHA256_HEADER), SIGNATURE_HEADER, value)


def _one_wrong(good: Delivery, other: Delivery) -> Delivery:
    return with_header(good, SIGNATURE_HEADER, other.headers[SIGNATURE_HEADER])


_WHOLE = "compare the whole value, in constant time, with what you computed"
_EVERY = "every signature header that is there must hold, not just one (--schemes sha256 checks a "
_EVERY += "receiver that knows the sha256= scheme alone)"

_BOTH: list[tuple[str, Change, str]] = [
    (
        "no signature",
        lambda good, _: without(good, SHA256_HEADER, *STANDARD_HEADERS),
        "refuse what is not signed",
    ),
    ("a body that was changed", lambda good, _: tampered(good), "verify the body that you use"),
    ("another secret", lambda _, other: other, "compare with what your secret gives"),
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


def malformed(signer: Signer) -> Iterator[Case]:
    """Yield signed bodies to none of which a 5xx will do, nor a 2xx where they mean nothing."""
    job = signer.job("malformed").encode()
    # Signed by `sha256=` alone where that is there: a signed id would name any bytes.
    standard = not signer.sha256

    def signed(body: bytes) -> Delivery:
        return signer.deliver(body.replace(b"JOB", job), "malformed", standard=standard)

    if signer.sha256:
        for name, body in _UNREADABLE:
            yield refuse(f"malformed: {name}", signed(body), _LOST)
    for name, body, why in [*_DOUBTFUL, _UTF_16, _TWO] if signer.sha256 else [_TWO]:
        yield refuse(f"malformed: {name}", signed(body), why, advice=True)
    packed = with_header(signed(b"\x1f\x8b" + bytes(100)), "Content-Encoding", "gzip")
    yield refuse("malformed: compressed", packed, "refuse Content-Encoding: 415", advice=True)
    stuffed = with_header(signed(b'{"jobId":"JOB"}'), "X-Stuffing", "x" * HEADER_BYTES)
    why = "let your server limit headers; most do"
    yield refuse("a megabyte of header", stuffed, why, advice=True, may_close=True)


def huge(signer: Signer, huge_bytes: int) -> Iterator[Case]:
    """Yield a validly signed body larger than any completion, with its length and without."""
    delivery = signer.deliver(signer.payload("huge", filler="x" * huge_bytes), "huge")
    yield refuse("a huge body", delivery, _LIMIT, advice=True, may_close=True)
    name = "a huge body without its length"
    yield refuse(name, chunked(delivery), _LIMIT, advice=True, may_close=True)


_UNREADABLE: Final = [
    ("no JSON", b"{"),
    ("nothing", b""),
    ("not UTF-8", b'{"jobId":"x\xff","status":"completed"}'),
    ("an array", b"[1]"),
    ("null", b"null"),
    ("no jobId", b'{"status":"completed"}'),
]
_DOUBTFUL: Final = [
    ("a number as jobId", b'{"jobId":7,"status":"completed"}', _TEXT),
    ("an empty jobId", b'{"jobId":"","status":"completed"}', _TEXT),
    ("an endless jobId", b'{"jobId":"' + b"j" * 100_000 + b'"}', _TEXT),
    ("half a character in jobId", b'{"jobId":"JOB\\ud800","status":"completed"}', _TEXT),
    ("a NUL in jobId", b'{"jobId":"JOB\\u0000","status":"completed"}', _TEXT),
    ("nesting without end", b'{"jobId":"x","y":' + b"[" * DEPTH + b"]" * DEPTH + b"}", _CRASH),
    ("a number without end", b'{"jobId":"JOB","cost":' + b"9" * DIGITS + b"}", _CRASH),
    ("NaN", b'{"jobId":"JOB","cost":NaN}', _AMBIGUOUS),
]
_TWO: Final = ("two jobIds", b'{"jobId":"a","jobId":"JOB"}', _AMBIGUOUS)
_UTF_16: Final = ("UTF-16", '{"jobId":"x","status":"completed"}'.encode("utf-16"), "JSON is UTF-8")
